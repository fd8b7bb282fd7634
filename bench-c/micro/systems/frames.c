#include "frames.h"

#include "../harness.h"

#define BATCH 64 /* taken at once from another thread's stack */

static _Thread_local unsigned own_shard;

void frames_use_shard(unsigned thread) { own_shard = thread % FRAME_SHARDS; }

void frames_init(struct frames *frames, uint64_t count) {
  frames->below = must_calloc(count + 1, sizeof *frames->below);
  for (unsigned i = 0; i < FRAME_SHARDS; i++) {
    pthread_mutex_init(&frames->shards[i].lock, NULL);
    frames->shards[i].top = 0;
  }
  for (uint64_t frame = count; frame > 0; frame--) frames_free(frames, frame);
}

void frames_destroy(struct frames *frames) {
  for (unsigned i = 0; i < FRAME_SHARDS; i++) pthread_mutex_destroy(&frames->shards[i].lock);
  free(frames->below);
}

static unsigned pop(struct frames *frames, unsigned shard, uint64_t *out, unsigned cap) {
  unsigned n = 0;
  pthread_mutex_lock(&frames->shards[shard].lock);
  for (uint64_t *top = &frames->shards[shard].top; n < cap && *top; n++) {
    out[n] = *top;
    *top = frames->below[*top];
  }
  pthread_mutex_unlock(&frames->shards[shard].lock);
  return n;
}

uint64_t frames_alloc(struct frames *frames) {
  uint64_t got[BATCH];
  unsigned n = pop(frames, own_shard, got, 1);
  for (unsigned i = 1; n == 0 && i < FRAME_SHARDS; i++) n = pop(frames, (own_shard + i) % FRAME_SHARDS, got, BATCH);
  CHECK(n > 0);
  while (n > 1) frames_free(frames, got[--n]);
  return got[0];
}

void frames_free(struct frames *frames, uint64_t frame) {
  pthread_mutex_lock(&frames->shards[own_shard].lock);
  frames->below[frame] = frames->shards[own_shard].top;
  frames->shards[own_shard].top = frame;
  pthread_mutex_unlock(&frames->shards[own_shard].lock);
}
