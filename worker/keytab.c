/* See keytab.h.  Open addressing with linear probing; nothing is deleted. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/keytab.h"

#define FIRST_SLOTS	64

void
keytab_init(struct keytab *t)
{
	memset(t, 0, sizeof(*t));
	t->nslots = FIRST_SLOTS;
	t->slot = xcalloc(t->nslots, sizeof(*t->slot));
	t->round = 1;
}

void
keytab_fini(struct keytab *t, void (*drop)(void *, void *), void *arg)
{
	size_t i;

	for (i = 0; i < t->nslots; i++) {
		if (t->slot[i] == NULL)
			continue;
		if (t->slot[i]->obj != NULL)
			drop(t->slot[i]->obj, arg);
		free(t->slot[i]->saved);
		free(t->slot[i]);
	}
	free(t->slot);
	free(t->dirty.at);
	free(t->waiting.at);
	memset(t, 0, sizeof(*t));
}

struct kent **
keytab_slot(const struct keytab *t, struct slice key, uint64_t hash)
{
	size_t i = hash & (t->nslots - 1);
	struct kent *e;

	for (;; i = (i + 1) & (t->nslots - 1)) {
		e = t->slot[i];
		if (e == NULL || (e->hash == hash && e->key_len == key.len &&
		    keytab_same(e->key, key.data, key.len)))
			return (&t->slot[i]);
	}
}

static void
grow(struct keytab *t)
{
	struct kent **old = t->slot;
	size_t i, n = t->nslots;

	t->nslots *= 2;
	t->slot = xcalloc(t->nslots, sizeof(*t->slot));
	for (i = 0; i < n; i++)
		if (old[i] != NULL)
			*keytab_slot(t, slice_of(old[i]->key,
			    old[i]->key_len), old[i]->hash) = old[i];
	free(old);
}

struct kent *
keytab_add(struct keytab *t, struct slice key, uint64_t hash)
{
	struct kent *e;

	if (t->n >= t->nslots / 4 * 3)
		grow(t);
	e = xmalloc(sizeof(*e) + key.len);
	memset(e, 0, sizeof(*e));
	e->hash = hash;
	e->key_len = (uint32_t)key.len;
	if (key.len > 0)
		memcpy(e->key, key.data, key.len);
	*keytab_slot(t, key, hash) = e;
	t->n++;
	return (e);
}

void
keytab_dirty(struct keytab *t, struct kent *e)
{
	struct kents *d = &t->dirty;

	if (d->n == d->cap) {
		d->cap = d->cap == 0 ? 64 : d->cap * 2;
		d->at = xreallocarray(d->at, d->cap, sizeof(*d->at));
	}
	d->at[d->n++] = e;
	e->round = t->round;
}

void
keytab_round(struct keytab *t)
{
	struct kents old = t->waiting;

	assert(t->saved == old.n);
	t->waiting = t->dirty;
	t->saved = 0;
	t->dirty = old;			/* its memory */
	t->dirty.n = 0;
	/* No key of the round before the last is left, so that after a wrap
	 * no number is taken for another; 0 means none. */
	if (++t->round == 0)
		t->round = 1;
}

struct kent *
keytab_waiting(struct keytab *t, size_t *most)
{
	struct kent *e;

	while (t->saved < t->waiting.n && *most > 0) {
		e = t->waiting.at[t->saved++];
		(*most)--;
		if (keytab_waits(t, e))
			return (e);
	}
	return (NULL);
}

struct kent *
keytab_next(const struct keytab *t, size_t *i)
{
	while (*i < t->nslots)
		if (t->slot[(*i)++] != NULL)
			return (t->slot[*i - 1]);
	return (NULL);
}
