/* Free frames of the small manager: a stack for each thread, so that threads do not meet here. Frames are numbered from 1. */
#ifndef RMAP_MICRO_FRAMES_H
#define RMAP_MICRO_FRAMES_H

#include <pthread.h>
#include <stdint.h>

#define FRAME_SHARDS 16

struct frames {
  struct {
    _Alignas(64) pthread_mutex_t lock;
    uint64_t top; /* 0: empty. lock */
  } shards[FRAME_SHARDS];
  uint64_t *below; /* the frame under each in its stack; the lock of that */
};

/* Which stack this thread uses. */
void frames_use_shard(unsigned thread);

void frames_init(struct frames *frames, uint64_t count);
void frames_destroy(struct frames *frames);
/* A free frame. It is a bug of the case if there is none. */
uint64_t frames_alloc(struct frames *frames);
void frames_free(struct frames *frames, uint64_t frame);

#endif
