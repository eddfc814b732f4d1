/*
 * After a power loss: where does each worker's journal end, so that all agree?
 *
 * Each worker proves how far its journal is whole.  These positions are sent to
 * all; each answers where its journal would end, which is before the first
 * message whose sender's journal ends before the position that made it.  That
 * is repeated with the answers until nothing changes any more: positions only
 * go down, so it ends, and it ends at the largest cut that holds no message
 * without its sender.  Then all go back to there, and only then does anybody
 * work.  When a worker dies in between it begins anew, and comes to the same
 * cut: nothing below it has been touched.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

struct cut_line {			/* as a worker has it: struct cut */
	uint64_t	lineage;
	uint64_t	position;
};

bool
cut_needed(const struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)
		if (s->child[i].lost)
			return (true);
	return (false);
}

/* One has died: what it answered was another life's.  When its successor has
 * opened its files the rounds begin anew. */
void
cut_forget(struct supervisor *s)
{
	s->cut_active = false;
}

static void
ask(struct supervisor *s)
{
	struct cut_line *line = xcalloc(s->n, sizeof(*line));
	struct msg_cut m = { ++s->cut_round, s->cut_last, { 0 } };
	struct buf b = { 0 };
	uint32_t i;

	FAULT_POINT(cut_ask_before);
	for (i = 0; i < s->n; i++) {
		s->child[i].cut_answered = false;
		line[i].lineage = s->child[i].lineage;
		line[i].position = s->child[i].cut;
	}
	m.cuts = slice_of(line, s->n * sizeof(*line));
	msg_put_cut(&b, &m);
	for (i = 0; i < s->n; i++)
		channel_send(&s->child[i], &b, -1);
	FAULT_POINT(cut_ask_after);
	buf_fini(&b);
	free(line);
}

void
cut_begin(struct supervisor *s)
{
	struct child *c;
	uint32_t i;

	s->cut_active = true;
	s->cut_last = s->cut_moved = false;
	for (i = 0; i < s->n; i++) {
		c = &s->child[i];
		c->cut = c->proven;
		log_info("power was lost: journal is whole worker=%u "
		    "position=%" PRIu64, i, c->cut);
	}
	ask(s);
}

/* Its checkpoint lies behind what can be kept. */
static void
refused(struct child *c, struct slice text)
{
	struct buf both = { 0 };

	buf_addf(&both, "%s%.*s", c->open_text == NULL ? "" : c->open_text,
	    (int)text.len, (const char *)text.data);
	free(c->open_text);
	c->open_text = xstrdup(buf_str(&both));
	buf_fini(&both);
	if (c->s->opt.accept_loss)
		c->lineage = 0;		/* it begins at its checkpoint */
	else
		c->refused = true;
}

static enum cut_do
round_done(struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)
		if (!s->child[i].cut_answered)
			return (CUT_WAIT);
	for (i = 0; i < s->n; i++)
		if (s->child[i].refused) {
			s->cut_active = false;
			return (CUT_REFUSED);
		}
	if (s->cut_last) {
		s->cut_active = false;
		return (CUT_DONE);
	}
	s->cut_last = !s->cut_moved;
	s->cut_moved = false;
	ask(s);
	return (CUT_WAIT);
}

enum cut_do
cut_answer(struct child *c, const struct msg_cutoff *m)
{
	struct supervisor *s = c->s;

	if (!s->cut_active || m->round != s->cut_round || c->cut_answered)
		return (CUT_WAIT);		/* of before somebody died */
	FAULT_POINT(cut_take_before);
	c->cut_answered = true;
	if (m->text.len > 0 && c->lineage != 0) {
		refused(c, m->text);
		s->cut_moved = true;
	} else if (!s->cut_last && c->lineage != 0 &&
	    m->position < c->cut) {
		c->cut = m->position;
		s->cut_moved = true;
	}
	FAULT_POINT(cut_take_after);
	if (s->cut_last)
		log_info("journal begins again worker=%u position=%" PRIu64,
		    c->number, m->position);
	return (round_done(s));
}
