/* What the targets of worker/ share: a worker in memory, whose host's values
 * are strings. */
#ifndef TESTS_FUZZ_FUZZ_WORKER_H
#define TESTS_FUZZ_FUZZ_WORKER_H

#include "tests/fuzz/fuzz.h"
#include "worker/worker.h"

extern const struct host fuzz_host;

extern const struct topo fuzz_pipeline;

/* Worker 0 of n. */
struct worker *fuzz_begin(const struct topo *, uint32_t n);
void	fuzz_end(struct worker *);
/* A file of an outbox, with pieces of the input over it; good: the bytes of
 * fd, after the first time. */
const char *fuzz_outbox_file(struct buf *good, int fd, struct fuzz_in *);
/* An entry of the journal; false: it has no room. */
bool	fuzz_put(struct worker *, unsigned int type, uint64_t channel,
	    uint64_t off, struct slice data, unsigned int flags);
/* Whether all was processed. */
bool	fuzz_process(struct worker *);
/* A checkpoint with something of everything. */
void	fuzz_pack_some(struct buf *);
/* Write pieces of the input over it: u8 offset, u8 length, bytes. */
void	fuzz_patch_buf(struct buf *, struct fuzz_in *);

#endif
