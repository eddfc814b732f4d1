/*
 * The keys of one stage, for the operator: a list is taken in one go, so that
 * it is that of one moment, and given away in pieces as they are asked for.
 */
#include <inttypes.h>

#include "common/fault.h"
#include "common/log.h"
#include "worker/worker.h"

#define LIST_MAX	(64 * 1024 * 1024)
#define LIST_PART	(64 * 1024)

static void
answer(struct worker *w, const struct msg_listed *m)
{
	struct buf b = { 0 };

	msg_put_listed(&b, m);
	control_send(w, &b);
	buf_fini(&b);
}

static void
refuse(struct worker *w, uint64_t id, const char *text)
{
	struct msg_listed m = { .id = id, .part = msg_cstr(text) };

	buf_fini(&w->list);
	w->list_id = 0;
	answer(w, &m);
}

/* false: it would be too long. */
static bool
take(struct worker *w, const struct keytab *t)
{
	struct kent *e;
	size_t i = 0;

	buf_clear(&w->list);
	while ((e = keytab_next(t, &i)) != NULL) {
		if (e->gone)
			continue;
		if (w->list.len > LIST_MAX)
			return (false);
		if (w->list.len > 0)
			buf_addf(&w->list, ",");
		control_json(&w->list, slice_of(e->key, e->key_len));
	}
	return (true);
}

void
list_answer(struct worker *w, const struct msg_list *m)
{
	struct msg_listed r = { .id = m->id, .ok = 1 };
	const struct keytab *t;
	struct err err;
	size_t n;

	if (m->stage >= w->topo.nstages ||
	    !stage_is_state(&w->topo.stages[m->stage]) || !w->running) {
		refuse(w, m->id, "no such stage here");
		return;
	}
	FAULT_POINT(keys_list_before);
	t = &w->a.keys[m->stage];
	r.keys = t->n + t->left - t->gone;
	if (m->names == 0) {
		answer(w, &r);
		FAULT_POINT(keys_list_after);
		return;
	}
	if (m->from == 0) {
		if (load_all(w, &err) == -1)
			worker_fatal_err(w, &err);
		if (!take(w, t)) {
			refuse(w, m->id, "too many keys to list");
			return;
		}
		w->list_id = m->id;
	}
	if (w->list_id != m->id || m->from > w->list.len) {
		refuse(w, m->id, "this list is not here any more");
		return;
	}
	n = w->list.len - (size_t)m->from;
	if (n > LIST_PART)
		n = LIST_PART;
	r.size = w->list.len;
	r.part = slice_of(n == 0 ? (const uint8_t *)"" : w->list.data +
	    m->from, n);
	answer(w, &r);
	FAULT_POINT(keys_list_after);
	if (m->from + n < w->list.len)
		return;
	buf_fini(&w->list);
	w->list_id = 0;
}
