/* See keytab.h.  Open addressing with linear probing; nothing is deleted. */
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
	memset(t, 0, sizeof(*t));
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
	e->dirty = true;
	e->next_dirty = t->dirty;
	t->dirty = e;
	t->ndirty++;
}

struct kent *
keytab_next(const struct keytab *t, size_t *i)
{
	while (*i < t->nslots)
		if (t->slot[(*i)++] != NULL)
			return (t->slot[*i - 1]);
	return (NULL);
}
