/*
 * A checkpoint's keys, read while the worker works: of the file as it was
 * when the reading began, however often the writer commits meanwhile.  A
 * connection of its own, for the loop's thread; nothing is written.
 */
#ifndef WORKER_STOREREAD_H
#define WORKER_STOREREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "worker/store.h"

struct storeread;

typedef int storeread_row(void *, size_t step, struct slice key,
	    struct slice value);

/* NULL: *err is set.  The store must be open, and stay so. */
struct storeread *storeread_new(struct store *, struct err *);
void	storeread_free(struct storeread *);
/* One key: 1 it is in *value, which is valid until the next call; 0 it is
 * not in the file; -1. */
int	storeread_key(struct storeread *, size_t step, struct slice key,
	    struct slice *value, struct err *);
/* All keys of one step, each once.  -1: error, or row has said so. */
int	storeread_step(struct storeread *, size_t step, storeread_row *,
	    void *, struct err *);
/* Go on with the keys of all steps but those that storeread_step has given,
 * each once, for at most so many: 1 there are more, 0 that were all, -1. */
int	storeread_next(struct storeread *, size_t most, storeread_row *,
	    void *, struct err *);

#endif
