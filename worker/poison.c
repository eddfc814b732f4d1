/*
 * Records that kill.  The journal's file says which call of user code was
 * under way when the last process died, the supervisor says how it died.
 * Who dies in the same call of the same record twice by its own doing has
 * shown that the record kills: an entry of the journal says that this call is
 * not made any more (automaton.h), which is then true in every replay.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/worker.h"

#define DEATHS		2	/* in one call until it is set aside */

/* The one that is here, else a free one, else the oldest. */
static struct journal_suspect *
suspect(struct journal_note *n, uint64_t stamp, uint64_t call)
{
	struct journal_suspect *s, *found = NULL;
	size_t i;

	for (i = 0; i < JOURNAL_SUSPECTS; i++) {
		s = &n->suspect[i];
		if (s->deaths != 0 && s->stamp == stamp &&
		    NOTE_NUMBER(s->call) == NOTE_NUMBER(call))
			return (s);
		if (found == NULL || (found->deaths != 0 && (s->deaths == 0 ||
		    s->stamp < found->stamp)))
			found = s;
	}
	found->deaths = 0;
	atomic_signal_fence(memory_order_seq_cst);
	found->stamp = stamp;
	found->call = call;
	return (found);
}

static const char *
place_of(const struct worker *w, uint64_t call)
{
	int stage = NOTE_STAGE(call);

	return (stage < 0 || (size_t)stage >= w->topo.nstages ? "a source" :
	    w->topo.stages[stage].name);
}

/* Files are open, nothing has run: charge the death to its record. */
void
poison_open(struct worker *w)
{
	struct journal_note *n = journal_note(&w->journal);
	uint64_t call = atomic_load(&n->call);
	uint64_t stamp = atomic_load(&n->stamp);
	struct journal_suspect *s;
	size_t i;
	int how;

	w->a.note = n;
	/* Who has got past it is innocent. */
	for (i = 0; i < JOURNAL_SUSPECTS; i++)
		if (n->suspect[i].stamp < w->a.pos ||
		    (n->suspect[i].stamp == w->a.pos &&
		    NOTE_NUMBER(n->suspect[i].call) != FRAMING_CALL))
			n->suspect[i].deaths = 0;
	if (call != 0 && w->death[0] != '\0') {
		how = (int)strcspn(w->death, "\n");
		FAULT_POINT(suspect_note_before);
		s = suspect(n, stamp, call);
		(void)snprintf(s->how, sizeof(s->how), "%.*s", how, w->death);
		s->deaths++;
		FAULT_POINT(suspect_note_after);
		w->charged = s;
		log_warn("the last process died while it worked on a record "
		    "step=\"%s\" position=%" PRIu64 " deaths=%" PRIu64
		    " how=\"%.*s\"", place_of(w, call), stamp, s->deaths,
		    how, w->death);
	}
	/* Once only, also if this process dies before it is open. */
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store(&n->call, 0);
}

/* How it died; of the death that was just told, with the stack. */
static const char *
whole_death(const struct worker *w, const struct journal_suspect *s)
{
	return (s == w->charged ? w->death : s->how);
}

static void
decide(struct worker *w, struct journal_suspect *s)
{
	uint32_t number = NOTE_NUMBER(s->call);
	uint32_t level = automaton_aside_level(&w->a, s->stamp, number) + 1;
	struct buf b = { 0 };
	struct entry *e;
	struct err err;
	uint8_t *to;

	if (w->conf.poison == CONF_STOP) {
		s->deaths = 0;		/* the next start may do better */
		worker_fatal(w, EXIT_PERMANENT, "a record killed the process "
		    "twice, poison = stop: step=\"%s\" position=%" PRIu64
		    " how=\"%s\"; nothing is lost, the next start processes "
		    "it again", place_of(w, s->call), s->stamp, s->how);
	}
	automaton_aside_pack(&b, s->stamp, number, level, whole_death(w, s));
	if (w->a.naside >= ASIDE_MOST || level > ASIDE_BARE ||
	    journal_used(&w->journal) + entry_size((uint32_t)b.len) +
	    ENTRY_HEADER > w->journal.size) {
		s->deaths = 0;
		worker_fatal(w, EXIT_PERMANENT, "a record killed the process, "
		    "and so did %zu before it which wait to be set aside: "
		    "this is no single record, repair the code; step=\"%s\" "
		    "position=%" PRIu64 " how=\"%s\"", w->a.naside,
		    place_of(w, s->call), s->stamp, s->how);
	}
	FAULT_POINT(aside_put_before);
	to = journal_stage(&w->journal, ENTRY_ASIDE, 0, 0, (uint32_t)b.len,
	    0);
	e = journal_staged(&w->journal);
	memcpy(to, b.data, b.len);
	journal_publish(&w->journal, (uint32_t)b.len);
	FAULT_POINT(aside_put_after);
	buf_fini(&b);
	if (automaton_aside_add(&w->a, e, &err) == -1)
		worker_fatal_err(w, &err);
	atomic_signal_fence(memory_order_seq_cst);
	s->deaths = 0;
}

/* What was read before the death is published: from here on the journal may
 * be written. */
void
poison_decide(struct worker *w)
{
	struct journal_note *n = journal_note(&w->journal);
	size_t i;

	for (i = 0; i < JOURNAL_SUSPECTS; i++)
		if (n->suspect[i].deaths >= DEATHS)
			decide(w, &n->suspect[i]);
}
