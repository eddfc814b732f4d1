/* See stable.h. */
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "worker/stable.h"

void
stable_init(struct stable *s, uint32_t workers, uint32_t exchanges,
    uint64_t entry, const struct mark *marks)
{
	size_t n = (size_t)exchanges * workers;

	memset(s, 0, sizeof(*s));
	s->workers = workers;
	s->exchanges = exchanges;
	s->pos = s->synced = entry;
	s->sender = xcalloc(workers, sizeof(*s->sender));
	s->safe = xcalloc(n + 1, sizeof(*s->safe));
	if (n > 0)
		memcpy(s->safe, marks, n * sizeof(*s->safe));
}

void
stable_fini(struct stable *s)
{
	free(s->sender);
	free(s->safe);
	memset(s, 0, sizeof(*s));
}

void
stable_hello(struct stable *s, uint32_t w, uint64_t lineage)
{
	struct sender *from = &s->sender[w];

	if (from->lineage == lineage)
		return;
	from->lineage = lineage;
	from->pos = 0;
}

void
stable_heard(struct stable *s, uint32_t w, uint64_t pos)
{
	if (pos > s->sender[w].pos)
		s->sender[w].pos = pos;
}

void
stable_synced(struct stable *s, uint64_t pos)
{
	if (pos > s->synced)
		s->synced = pos;
}

/* A frame's channel and head; false: the entry is none. */
static bool
frame_of(const struct entry *e, uint32_t *exchange, uint32_t *worker,
    struct frame_head *h)
{
	if (e->type != ENTRY_FRAME || e->len < sizeof(*h))
		return (false);
	*worker = (uint32_t)(e->channel >> 16);
	*exchange = (uint32_t)(e->channel & 0xffff);
	memcpy(h, e->data, sizeof(*h));
	return (true);
}

/* Must the frame wait?  One of a life that its sender has left behind never
 * gets more stable: that loss was accepted. */
static bool
waits(const struct sender *from, const struct frame_head *h)
{
	return (from->lineage == 0 || (from->lineage == h->lineage &&
	    h->pos > from->pos));
}

bool
stable_scan(struct stable *s, const struct journal *j,
    void (*passed)(void *, uint32_t, uint32_t), void *arg)
{
	uint64_t before = s->pos;
	struct frame_head h;
	struct mark *m;
	struct entry *e;
	uint32_t x, w;

	while (s->pos < s->synced && (e = journal_at(j, s->pos)) != NULL) {
		if (frame_of(e, &x, &w, &h) && w < s->workers &&
		    x < s->exchanges) {
			if (waits(&s->sender[w], &h))
				break;
			m = &s->safe[(size_t)x * s->workers + w];
			if (m->lineage != h.lineage || h.pos > m->pos ||
			    (h.pos == m->pos && h.index > m->index)) {
				m->lineage = h.lineage;
				m->pos = h.pos;
				m->index = h.index;
			}
			passed(arg, x, w);
		}
		s->pos = entry_end(e);
	}
	return (s->pos != before);
}

uint64_t
stable_cutoff(const struct journal *j, uint64_t from, const struct cut *cuts,
    uint32_t workers)
{
	uint64_t pos = from, tail = journal_tail(j);
	struct frame_head h;
	struct entry *e;
	uint32_t x, w;

	for (; pos < tail && (e = journal_at(j, pos)) != NULL;
	    pos = entry_end(e))
		if (frame_of(e, &x, &w, &h) && w < workers &&
		    h.lineage == cuts[w].lineage && h.pos > cuts[w].pos)
			break;
	return (pos);
}
