/*
 * What changes a mapped file or a database without a system call is a point,
 * too: the linker puts these in front of the functions (--wrap).
 */
#include <stdbool.h>

#include "tests/sim/plan.h"
#include "tests/sim/sim.h"
#include "worker/worker.h"

#define WRAP(type, name, params, args)					\
type	__real_##name params;						\
type	__wrap_##name params;						\
type									\
__wrap_##name params							\
{									\
	type r_;							\
									\
	point(PT_##name, false);					\
	r_ = __real_##name args;					\
	point(PT_##name, true);						\
	return (r_);							\
}
#define WRAP_VOID(name, params, args)					\
void	__real_##name params;						\
void	__wrap_##name params;						\
void									\
__wrap_##name params							\
{									\
	point(PT_##name, false);					\
	__real_##name args;						\
	point(PT_##name, true);						\
}

WRAP(int, journal_create, (struct journal *j, const char *path,
    uint64_t size, uint32_t worker, uint64_t lineage, uint64_t start,
    struct err *err), (j, path, size, worker, lineage, start, err))
WRAP(int, journal_open, (struct journal *j, const char *path,
    uint32_t worker, bool *missing, bool *old_boot, struct err *err),
    (j, path, worker, missing, old_boot, err))
WRAP(uint8_t *, journal_stage, (struct journal *j, enum entry_type type,
    uint64_t channel, uint64_t off, uint32_t room, uint16_t flags),
    (j, type, channel, off, room, flags))
void	__real_journal_publish(struct journal *, uint32_t);
void	__wrap_journal_publish(struct journal *, uint32_t);
void
__wrap_journal_publish(struct journal *j, uint32_t len)
{
	const struct entry *e = journal_staged(j);
	struct tcp *t;

	point(PT_journal_publish, false);
	if (e != NULL && e->type == ENTRY_FORGET &&
	    (t = tcp_given(e->channel)) != NULL)
		t->forgotten = e->pos + 1;
	__real_journal_publish(j, len);
	point(PT_journal_publish, true);
}
WRAP_VOID(journal_release, (struct journal *j, uint64_t done), (j, done))
WRAP_VOID(journal_free, (struct journal *j, uint64_t pos), (j, pos))
WRAP(int, outbox_create, (struct outbox *o, const char *path,
    uint64_t limit, uint64_t lineage, uint64_t payload, struct err *err),
    (o, path, limit, lineage, payload, err))
WRAP(int, outbox_open, (struct outbox *o, const char *path, bool *missing,
    struct err *err), (o, path, missing, err))
WRAP(int, outbox_reserve, (struct outbox *o, uint64_t n, struct err *err),
    (o, n, err))
WRAP_VOID(outbox_append, (struct outbox *o, struct frame *f,
    struct slice body, const uint32_t *lens), (o, f, body, lens))
WRAP_VOID(outbox_free, (struct outbox *o, uint64_t off), (o, off))
WRAP_VOID(outbox_cut, (struct outbox *o, uint64_t pos), (o, pos))
WRAP_VOID(journal_prove, (struct journal *j, uint64_t from), (j, from))
WRAP(int, journal_cut, (struct journal *j, const char *path, uint64_t pos,
    struct err *err), (j, path, pos, err))
WRAP(int, outbox_restore, (struct outbox *o, const char *path,
    uint64_t lineage, struct slice from, bool *missing, struct err *err),
    (o, path, lineage, from, missing, err))
WRAP_VOID(outbox_committed, (struct outbox *o), (o))
WRAP(int, recover_cut, (struct worker *w, const struct cut *cuts,
    struct err *err), (w, cuts, err))
WRAP_VOID(durable_round, (struct worker *w), (w))
WRAP_VOID(sink_finish, (struct worker *w), (w))
WRAP_VOID(checkpoint_begin, (struct worker *w), (w))
WRAP_VOID(checkpoint_done, (struct worker *w), (w))
WRAP(int, automaton_run, (struct automaton *a, uint64_t (*now)(void),
    uint64_t deadline_ns, size_t max_bytes, struct err *err),
    (a, now, deadline_ns, max_bytes, err))

/* Clients learn what is left of what they have sent. */
void	__real_source_recover(struct worker *);
void	__wrap_source_recover(struct worker *);
void
__wrap_source_recover(struct worker *w)
{
	struct conn *c, *next;

	actor_recovers(w->me, journal_tail(&w->journal));
	HASH_ITER(hh, w->conns, c, next)
		actor_has(c->id, c->journaled);
	actor_has_no_more(w->me);
	__real_source_recover(w);
}

/* The program itself has a handler for what a page of a file may do. */
void	__wrap_mapped_guard(void (*)(const char *, size_t));
void
__wrap_mapped_guard(void (*say)(const char *, size_t))
{
	(void)say;
}

/*
 * What a user may set is larger than what a few hundred inputs fill: the
 * worker gets the small sizes that belong to its small bounds.
 */
int	__real_conf_unpack(struct conf_app *, struct slice, struct err *);
int	__wrap_conf_unpack(struct conf_app *, struct slice, struct err *);
int
__wrap_conf_unpack(struct conf_app *c, struct slice s, struct err *err)
{
	if (__real_conf_unpack(c, s, err) == -1)
		return (-1);
	c->journal_size = plan.journal;
	c->outbox_mark = plan.mark;
	c->outbox_size = 32 * 1024;
	return (0);
}
