/*
 * The keys of one state stage: key bytes -> the host's live object, and which
 * of them changed since the last checkpoint.  A key that recovery brought is
 * held as its saved bytes until it is first touched.  One thread.
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
	struct kent	*next_dirty;
	void		*obj;		/* live object, NULL = see saved */
	struct wkey	*window;	/* window.h's, of stages with windows */
	uint8_t		*saved;		/* owned bytes not yet loaded */
	uint64_t	 hash;
	uint32_t	 saved_len;
	uint32_t	 key_len;
	bool		 dirty;
	uint8_t		 key[];
};

struct keytab {
	struct kent	**slot;
	size_t		  nslots;	/* a power of two */
	size_t		  n;
	struct kent	 *dirty;	/* list, newest first */
	size_t		  ndirty;
};

void	keytab_init(struct keytab *);
/* drop is called for every live object. */
void	keytab_fini(struct keytab *, void (*drop)(void *obj, void *), void *);
/* The slot that holds the key, or the empty one where it would go. */
static inline struct kent **
keytab_slot(const struct keytab *t, struct slice key, uint64_t hash)
{
	size_t i = hash & (t->nslots - 1);
	struct kent *e;

	for (;; i = (i + 1) & (t->nslots - 1)) {
		e = t->slot[i];
		if (e == NULL || (e->hash == hash && e->key_len == key.len &&
		    (key.len == 0 ||
		    memcmp(e->key, key.data, key.len) == 0)))
			return (&t->slot[i]);
	}
}
static inline struct kent *
keytab_find(const struct keytab *t, struct slice key, uint64_t hash)
{
	return (*keytab_slot(t, key, hash));
}
/* The key must not be there. */
struct kent *keytab_add(struct keytab *, struct slice, uint64_t hash);
void	keytab_dirty(struct keytab *, struct kent *);
static inline void
keytab_touch(struct keytab *t, struct kent *e)	/* is dirty now */
{
	if (!e->dirty)
		keytab_dirty(t, e);
}
/* Every key, in no order; *i starts at 0; NULL at the end. */
struct kent *keytab_next(const struct keytab *, size_t *i);

#endif
