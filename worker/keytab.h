/*
 * The keys of one state stage: key bytes -> the host's live object, and which
 * of them changed since the last checkpoint.  A key that recovery brought is
 * held as its saved bytes until it is first touched.  One thread.
 *
 * A checkpoint begins a new round.  The keys that were touched in the round
 * before it wait to be saved, some at a time, and who touches one of them
 * again saves it first: the checkpoint has all of them as they were when it
 * began.
 *
 * A table that is full gets one of twice the size, and its keys go there some
 * at a time with each key that is added, or not found at once: no event waits
 * for all of them.
 */
#ifndef WORKER_KEYTAB_H
#define WORKER_KEYTAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/buf.h"

struct wkey;
struct kent {
	void		*obj;		/* live object, NULL = see saved */
	struct wkey	*window;	/* window.h's, of stages with windows */
	uint8_t		*saved;		/* owned bytes not yet loaded */
	uint64_t	 hash;
	uint32_t	 saved_len;
	uint32_t	 key_len;
	uint32_t	 round;		/* in which it was touched, 0: it is
					   saved as it is */
	bool		 gone;		/* expired: known, until a checkpoint
					   has that there is no such key */
	uint8_t		 key[];
};

struct keytab {
	struct kent	**slot;
	size_t		  nslots;	/* a power of two */
	size_t		  n;
	size_t		  gone;		/* so many of them are */
	bool		  partial;	/* there may be more in the file; what
					   is taken out would come back */
	uint64_t	  left;		/* so many */
	struct kent	**old;		/* the one before, NULL: all of its
					   keys are moved */
	size_t		  nold;		/* its slots */
	size_t		  moved;	/* so many of them are done */
	uint32_t	  round;	/* this one */
	struct kents {
		struct kent	**at;
		size_t		  n;
		size_t		  cap;
	}		  dirty;	/* touched in this round */
	struct kents	  waiting;	/* to be saved, from `saved` on; some
					   are saved or touched again */
	size_t		  saved;
};

void	keytab_init(struct keytab *);
/* drop is called for every live object. */
void	keytab_fini(struct keytab *, void (*drop)(void *obj, void *), void *);
#define KEYTAB_MOVE	4	/* old slots that go with each key; more than
				   one is enough */

/* As keytab_find, where it is not where it was expected first. */
struct kent *keytab_look(struct keytab *, struct slice key, uint64_t hash);
static inline bool
keytab_same(const uint8_t *a, const uint8_t *b, size_t n)
{
	uint64_t x, y, v, w;
	uint32_t x4, y4, v4, w4;

	/* The usual lengths by two words each, which may overlap. */
	if (n < sizeof(x4) || n > 2 * sizeof(x))
		return (n == 0 || memcmp(a, b, n) == 0);
	if (n < sizeof(x)) {
		memcpy(&x4, a, sizeof(x4));
		memcpy(&y4, b, sizeof(y4));
		memcpy(&v4, a + n - sizeof(v4), sizeof(v4));
		memcpy(&w4, b + n - sizeof(w4), sizeof(w4));
		return (((x4 ^ y4) | (v4 ^ w4)) == 0);
	}
	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	memcpy(&v, a + n - sizeof(v), sizeof(v));
	memcpy(&w, b + n - sizeof(w), sizeof(w));
	return (((x ^ y) | (v ^ w)) == 0);
}
/* NULL: it is not there. */
static inline struct kent *
keytab_find(struct keytab *t, struct slice key, uint64_t hash)
{
	struct kent *e = t->slot[hash & (t->nslots - 1)];

	/* Mostly the first one that is looked at. */
	if (e != NULL && e->hash == hash && e->key_len == key.len &&
	    keytab_same(e->key, key.data, key.len))
		return (e);
	return (keytab_look(t, key, hash));
}
/* The key must not be there. */
struct kent *keytab_add(struct keytab *, struct slice, uint64_t hash);
/* Take out a key that is neither dirty nor waiting any more, and free it.  It
 * has no live object. */
void	keytab_remove(struct keytab *, struct kent *);
/* It is about to change.  True: it waits, and must be saved before. */
static inline bool
keytab_waits(const struct keytab *t, const struct kent *e)
{
	return (e->round != 0 && e->round != t->round);
}
void	keytab_dirty(struct keytab *, struct kent *);
static inline void
keytab_touch(struct keytab *t, struct kent *e)
{
	if (e->round != t->round)
		keytab_dirty(t, e);
}
/* All that are dirty wait; none did. */
void	keytab_round(struct keytab *);
/* One that waits, NULL: none; most: how many may be looked at, reduced. */
struct kent *keytab_waiting(struct keytab *, size_t *most);
/* Every key, in no order; *i starts at 0; NULL at the end.  None is looked up
 * meanwhile. */
struct kent *keytab_next(const struct keytab *, size_t *i);

#endif
