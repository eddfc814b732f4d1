/* See keytab.h.  Open addressing with linear probing.  A key that is moved
 * stays in the old table, too, and so none there is lost; one that is removed
 * leaves a mark there, and closes its gap in the new one. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/keytab.h"

#define FIRST_SLOTS	64

/* In the old table: no key is so long. */
static struct kent removed = { .key_len = UINT32_MAX };

void
keytab_init(struct keytab *t)
{
	memset(t, 0, sizeof(*t));
	t->nslots = FIRST_SLOTS;
	t->slot = xcalloc(t->nslots, sizeof(*t->slot));
	t->round = 1;
}

static void
drop_key(struct kent *e, void (*drop)(void *, void *), void *arg)
{
	if (e->obj != NULL)
		drop(e->obj, arg);
	free(e->saved);
	free(e);
}

void
keytab_fini(struct keytab *t, void (*drop)(void *, void *), void *arg)
{
	struct kent *e;
	size_t i = 0;

	while ((e = keytab_next(t, &i)) != NULL)
		drop_key(e, drop, arg);
	free(t->slot);
	free(t->old);
	free(t->dirty.at);
	free(t->waiting.at);
	memset(t, 0, sizeof(*t));
}

/* The slot that holds the key, or the empty one where it would go. */
static struct kent **
probe(struct kent **slot, size_t n, struct slice key, uint64_t hash)
{
	size_t i = hash & (n - 1);
	struct kent *e;

	for (;; i = (i + 1) & (n - 1)) {
		e = slot[i];
		if (e == NULL || (e->hash == hash && e->key_len == key.len &&
		    keytab_same(e->key, key.data, key.len)))
			return (&slot[i]);
	}
}

/* Some keys go from the old table to the new one. */
static void
move(struct keytab *t, size_t most)
{
	struct kent *e;

	for (; t->old != NULL && most > 0; most--) {
		e = t->old[t->moved++];
		if (e != NULL && e != &removed)
			*probe(t->slot, t->nslots, slice_of(e->key,
			    e->key_len), e->hash) = e;
		if (t->moved == t->nold) {
			free(t->old);
			t->old = NULL;
		}
	}
}

struct kent *
keytab_look(struct keytab *t, struct slice key, uint64_t hash)
{
	struct kent *e = *probe(t->slot, t->nslots, key, hash);

	if (t->old != NULL) {
		if (e == NULL)
			e = *probe(t->old, t->nold, key, hash);
		move(t, KEYTAB_MOVE);	/* also when no more keys come */
	}
	return (e);
}

static void
grow(struct keytab *t)
{
	move(t, SIZE_MAX);		/* done long ago */
	t->old = t->slot;
	t->nold = t->nslots;
	t->moved = 0;
	t->nslots *= 2;
	t->slot = xcalloc(t->nslots, sizeof(*t->slot));
}

struct kent *
keytab_add(struct keytab *t, struct slice key, uint64_t hash)
{
	struct kent *e;

	if (t->n >= t->nslots / 4 * 3)
		grow(t);
	move(t, KEYTAB_MOVE);
	e = xmalloc(sizeof(*e) + key.len);
	memset(e, 0, sizeof(*e));
	e->hash = hash;
	e->key_len = (uint32_t)key.len;
	if (key.len > 0)
		memcpy(e->key, key.data, key.len);
	*probe(t->slot, t->nslots, key, hash) = e;
	t->n++;
	return (e);
}

/* Where that key is, or the empty slot behind all where it could be. */
static size_t
slot_of(struct kent **slot, size_t n, const struct kent *e)
{
	size_t i = e->hash & (n - 1);

	while (slot[i] != NULL && slot[i] != e)
		i = (i + 1) & (n - 1);
	return (i);
}

/* Keys behind slot i that would not be found any more move up. */
static void
close_gap(struct kent **slot, size_t n, size_t i)
{
	size_t k, home;

	for (k = (i + 1) & (n - 1); slot[k] != NULL; k = (k + 1) & (n - 1)) {
		home = slot[k]->hash & (n - 1);
		if (((k - home) & (n - 1)) < ((k - i) & (n - 1)))
			continue;
		slot[i] = slot[k];
		i = k;
	}
	slot[i] = NULL;
}

void
keytab_remove(struct keytab *t, struct kent *e)
{
	size_t i;

	assert(e->obj == NULL && e->round == 0);
	if (t->old != NULL) {
		i = slot_of(t->old, t->nold, e);
		if (t->old[i] != NULL)
			t->old[i] = &removed;
	}
	i = slot_of(t->slot, t->nslots, e);
	if (t->slot[i] != NULL)
		close_gap(t->slot, t->nslots, i);
	t->n--;
	if (e->gone)
		t->gone--;
	free(e->saved);
	free(e);
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
	size_t k;

	while (*i < t->nslots)
		if (t->slot[(*i)++] != NULL)
			return (t->slot[*i - 1]);
	/* Then those that are only in the old one. */
	while (t->old != NULL && *i - t->nslots < t->nold) {
		k = (*i)++ - t->nslots;
		if (k >= t->moved && t->old[k] != NULL &&
		    t->old[k] != &removed)
			return (t->old[k]);
	}
	return (NULL);
}
