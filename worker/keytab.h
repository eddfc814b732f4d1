/*
 * The keys of one state stage: key bytes -> the host's live object, and which
 * of them changed since the last checkpoint.  A key that recovery brought is
 * held as its saved bytes until it is first touched.  One thread.
 *
 * A checkpoint begins a new round.  The keys that were touched in the round
 * before it wait to be saved, some at a time, and who touches one of them
 * again saves it first: the checkpoint has all of them as they were when it
 * began.
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
	uint8_t		 key[];
};

struct keytab {
	struct kent	**slot;
	size_t		  nslots;	/* a power of two */
	size_t		  n;
	bool		  partial;	/* there may be more in the file; what
					   is taken out would come back */
	uint64_t	  left;		/* so many */
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
/* The slot that holds the key, or the empty one where it would go. */
struct kent **keytab_slot(const struct keytab *, struct slice key,
	    uint64_t hash);
static inline bool
keytab_same(const uint8_t *a, const uint8_t *b, size_t n)
{
	uint64_t x, y, v, w;

	if (n < sizeof(x) || n > 2 * sizeof(x))
		return (n == 0 || memcmp(a, b, n) == 0);
	/* The usual length, by two words that may overlap. */
	memcpy(&x, a, sizeof(x));
	memcpy(&y, b, sizeof(y));
	memcpy(&v, a + n - sizeof(v), sizeof(v));
	memcpy(&w, b + n - sizeof(w), sizeof(w));
	return (((x ^ y) | (v ^ w)) == 0);
}
/* NULL: it is not there. */
static inline struct kent *
keytab_find(const struct keytab *t, struct slice key, uint64_t hash)
{
	struct kent *e = t->slot[hash & (t->nslots - 1)];

	/* Mostly the first one that is looked at. */
	if (e != NULL && e->hash == hash && e->key_len == key.len &&
	    keytab_same(e->key, key.data, key.len))
		return (e);
	return (*keytab_slot(t, key, hash));
}
/* The key must not be there. */
struct kent *keytab_add(struct keytab *, struct slice, uint64_t hash);
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
/* Every key, in no order; *i starts at 0; NULL at the end. */
struct kent *keytab_next(const struct keytab *, size_t *i);

#endif
