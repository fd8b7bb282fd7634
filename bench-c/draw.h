/* rmap-bench draw: the reverse map of one page of a trace, as a picture. */
#ifndef RMAP_BENCH_DRAW_H
#define RMAP_BENCH_DRAW_H

extern const char draw_usage[];

/* Does the command; ARGV begins after the word "draw". Returns the exit status: 0 drawn, 2 not to be drawn. */
int draw_main(int argc, char **argv);

#endif
