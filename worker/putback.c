/*
 * Records of dead letters that the operator puts back: each is an entry of
 * the journal, once, however often the supervisor has to say so.
 */
#include <string.h>

#include "common/fault.h"
#include "worker/worker.h"

/* 0: it is in the journal, now or since before. */
static int
take(struct worker *w, const struct msg_putback *m, struct err *err)
{
	uint32_t len = (uint32_t)(sizeof(m->seq) + m->record.len);
	struct letter l;
	uint8_t *to;

	if (m->seq <= w->putback)
		return (0);
	if (!w->running || w->draining)
		return (err_set(err, ERR_REFUSED, "the application is "
		    "stopping"));
	if (letter_unpack(&l, m->record, err) == -1 ||
	    automaton_letter_place(&w->a, &l, err) == -1)
		return (-1);
	if (source_space(w) < entry_size(len))
		return (err_set(err, ERR_REFUSED, "the journal is full, try "
		    "again"));
	FAULT_POINT(letter_put_before);
	to = journal_stage(&w->journal, ENTRY_LETTER, 0, 0, len, 0);
	memcpy(to, &m->seq, sizeof(m->seq));
	memcpy(to + sizeof(m->seq), m->record.data, m->record.len);
	journal_publish(&w->journal, len);
	w->putback = m->seq;
	FAULT_POINT(letter_put_after);
	ev_idle_start(w->loop, &w->more);
	return (0);
}

static void
answer(struct worker *w, uint64_t seq, bool ok, const char *text)
{
	struct msg_putback_done r = { seq, ok, msg_cstr(text) };
	struct buf b = { 0 };

	FAULT_POINT(letter_say_before);
	msg_put_putback_done(&b, &r);
	control_send(w, &b);
	FAULT_POINT(letter_say_after);
	buf_fini(&b);
}

struct due {
	uint64_t	seq;
	uint64_t	pos;		/* its entry ends before */
};

void
putback_take(struct worker *w, const struct msg_putback *m)
{
	struct due due;
	struct err err;

	if (take(w, m, &err) == -1) {
		answer(w, m->seq, false, err.text);
		return;
	}
	/* The supervisor believes it for good: a power loss must, too. */
	due = (struct due){ m->seq, journal_tail(&w->journal) };
	buf_add(&w->putback_due, &due, sizeof(due));
	putback_stable(w);
}

void
putback_stable(struct worker *w)
{
	struct due due;

	while (w->putback_due.len >= sizeof(due)) {
		memcpy(&due, w->putback_due.data, sizeof(due));
		if (w->machine && w->stable.pos < due.pos)
			break;
		answer(w, due.seq, true, "");
		buf_consume(&w->putback_due, sizeof(due));
	}
}

/* Found in the journal by recovery. */
void
putback_note(struct worker *w, const struct entry *e)
{
	uint64_t seq;

	if (e->len < sizeof(seq))
		return;
	memcpy(&seq, e->data, sizeof(seq));
	if (seq > w->putback)
		w->putback = seq;
}
