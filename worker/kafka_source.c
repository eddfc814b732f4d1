/*
 * Sources in Kafka: partitions of topics into the journal.  Partition p is
 * read by worker p modulo the number of workers; nobody asks a group who reads
 * what.  Where a partition goes on is in the automaton, never in Kafka: the
 * group is only told, after each checkpoint, so that Kafka's tools can show
 * how far we are.
 *
 *	look -> found: begin at ... -> assigned -> records -> journal
 *
 * A helper thread looks at the topics, at first and then again and again;
 * what it finds is journaled before anything is read from there, so that a
 * restart does not choose another beginning.  When nothing may be read, the
 * client's queue fills up to its limit, and then it asks for no more.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/handoff.h"
#include "worker/kafka.h"
#include "worker/kafka_look.h"
#include "worker/sizes.h"
#include "worker/worker.h"

#define RETRY_NS	1000000000ULL	/* after a look that failed */
#define LAST_MS		3000		/* for the group to be told */
#define DOUBTS		10		/* looks until a position is refused */
#define LAGS		256		/* partitions in one message */

_Static_assert(OFFSETS_MOST == LAGS_MOST, "all partitions can be told");

struct kafka_source {
	struct worker	*w;
	size_t		 i;
	const struct topo_source *src;
	struct kafka	 k;
	struct offsets	 at;		/* as the journal has it */
	struct handoff	 looker;
	bool		 looking;
	uint64_t	 look_ns;	/* when to look again */
	bool		 verify;	/* also at what is known */
	unsigned int	 doubts;	/* looks that did not verify it */
	bool		 assigned;
	bool		 untold;	/* the group lacks what it was told */
	bool		 more;		/* the queue may have something */
	rd_kafka_message_t *held;	/* there was no room for it */
	uint32_t	 last;		/* number of the last record's */
	uint64_t	*lags;		/* as they were told, `nlags` */
	uint32_t	 nlags;
	struct buf	 headers;
	ev_io		 io;
	ev_async	 looked;
};

static bool
is_finite(const struct kafka_source *s)
{
	return (s->w->conf.at_end == CONF_LEAVE);
}

/* --- into the journal ---------------------------------------------------- */

/* One record that is no message, as an entry of its own. */
static void
put_note(struct kafka_source *s, const struct kafka_record *r)
{
	struct source *src = &s->w->sources[s->i];
	size_t len = kafka_record_size(r);
	uint8_t *to = journal_stage(&s->w->journal, ENTRY_FILE, s->i,
	    src->journaled, (uint32_t)len, 0);

	kafka_record_put(to, r);
	journal_publish(&s->w->journal, (uint32_t)len);
	src->journaled += len;
	(void)offsets_take(&s->at, r, 0);
}

static void
put_end(struct kafka_source *s)
{
	struct source *src = &s->w->sources[s->i];

	*journal_stage(&s->w->journal, ENTRY_EOF, s->i, src->journaled, 1,
	    ENTRY_SOURCE) = 0;
	journal_publish(&s->w->journal, 1);
	src->eof = true;
	(void)rd_kafka_assign(s->k.rk, NULL);
	log_info("source has ended source=\"%s\" partitions=%" PRIu32,
	    s->src->name, s->at.n);
}

/* A finite run reads what was there when it began. */
static void
end_if_over(struct kafka_source *s)
{
	uint32_t i;

	if (!is_finite(s) || !s->assigned || s->w->sources[s->i].eof)
		return;
	for (i = 0; i < s->at.n; i++)
		if (s->at.o[i].next < s->at.o[i].end)
			return;
	put_end(s);
}

/* --- what there is ------------------------------------------------------- */

static void
look(void *owner, void *job)
{
	(void)owner;
	kafka_look(job);
}

/* On the thread. */
static void
look_done(void *arg)
{
	struct kafka_source *s = arg;

	ev_async_send(s->w->loop, &s->looked);
}

static void
begin_look(struct kafka_source *s)
{
	struct look *l = xcalloc(1, sizeof(*l));

	l->k = &s->k;
	l->src = s->src;
	l->worker = s->w->me;
	l->workers = s->w->n;
	l->begun = s->at.looked;
	if (!s->verify)
		offsets_copy(&l->known, &s->at);
	s->looking = true;
	handoff_give(&s->looker, l);
}

static struct look_found *
find_found(const struct look *l, const struct offset *o)
{
	size_t i;

	for (i = 0; i < l->nfound; i++)
		if (l->found[i].partition == o->partition &&
		    strcmp(l->found[i].topic, o->topic) == 0)
			return (&l->found[i]);
	return (NULL);
}

#define BEGIN_ANEW							\
	"to read what there is now, begin with an empty state-directory"

/* Can partition o be read on?  NULL: yes. */
static char *
why_not(const struct offset *o, const struct look_found *f)
{
	if (f == NULL)
		return (xasprintf("partition %" PRId32 " of topic \"%s\", "
		    "which was read up to offset %" PRId64 ", does not exist "
		    "any more: was the topic deleted?  Restore it; or, "
		    BEGIN_ANEW, o->partition, o->topic, o->next));
	if (o->next > f->high)
		return (xasprintf("partition %" PRId32 " of topic \"%s\" was "
		    "read up to offset %" PRId64 ", but ends at %" PRId64
		    ": was the topic made anew, or has it lost records?  "
		    "Restore it; or, " BEGIN_ANEW, o->partition, o->topic,
		    o->next, f->high));
	if (o->next < f->low)
		return (xasprintf("partition %" PRId32 " of topic \"%s\" was "
		    "read up to offset %" PRId64 ", but begins at %" PRId64
		    ": its retention has removed %" PRId64 " offsets that "
		    "were not read.  Keep records longer; " BEGIN_ANEW,
		    o->partition, o->topic, o->next, f->low,
		    f->low - o->next));
	return (NULL);
}

/* false: look once more. */
static bool
verify(struct kafka_source *s, const struct look *l)
{
	char *why = NULL;
	uint32_t i;

	for (i = 0; why == NULL && i < s->at.n; i++)
		why = why_not(&s->at.o[i], find_found(l, &s->at.o[i]));
	if (why == NULL) {
		s->verify = false;
		return (true);
	}
	/* A broker that has just begun to lead may not know its end yet. */
	if (++s->doubts >= DOUBTS)
		worker_fatal(s->w, EXIT_PERMANENT, "source \"%s\": %s",
		    s->src->name, why);
	free(why);
	return (false);
}

/* Read from where the journal ends. */
static void
assign(struct kafka_source *s)
{
	rd_kafka_topic_partition_list_t *list =
	    rd_kafka_topic_partition_list_new((int)s->at.n + 1);
	rd_kafka_resp_err_t why;
	struct err err;
	uint32_t i;

	for (i = 0; i < s->at.n; i++)
		rd_kafka_topic_partition_list_add(list, s->at.o[i].topic,
		    s->at.o[i].partition)->offset = s->at.o[i].next;
	why = rd_kafka_assign(s->k.rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (why != RD_KAFKA_RESP_ERR_NO_ERROR) {
		(void)kafka_err(&err, ERR_SYSTEM, &s->k, why, "assigning");
		worker_fatal_err(s->w, &err);
	}
	s->assigned = s->more = true;
}

static void
add_found(struct kafka_source *s, const struct look_found *f)
{
	struct kafka_record r = { .kind = KAFKA_FOUND, .number = s->at.n,
	    .partition = f->partition, .offset = f->start,
	    .time_ms = f->high, .topic = slice_of(f->topic,
	    strlen(f->topic)) };

	if (s->at.n == OFFSETS_MOST)
		worker_fatal(s->w, EXIT_PERMANENT, "source \"%s\": there are "
		    "more than %d partitions for one worker: use more "
		    "workers", s->src->name, OFFSETS_MOST);
	put_note(s, &r);
	log_info("found a partition source=\"%s\" topic=\"%s\" partition=%"
	    PRId32 " from=%" PRId64 " end=%" PRId64, s->src->name, f->topic,
	    f->partition, f->start, f->high);
}

/* A new start, after a clean stop: a finite run reads to where partitions end
 * now, and what had ended goes on. */
static void
begin_run(struct kafka_source *s, const struct look *l)
{
	struct kafka_record r = { .kind = KAFKA_END };
	struct kafka_record over = { .kind = KAFKA_LOOKED };
	const struct look_found *f;

	for (; r.number < s->at.n; r.number++) {
		if ((f = find_found(l, &s->at.o[r.number])) == NULL)
			continue;
		r.offset = s->at.o[r.number].next;
		r.time_ms = f->high;
		put_note(s, &r);
	}
	put_note(s, &over);
}

static void
use_look(struct kafka_source *s, const struct look *l)
{
	struct kafka_record over = { .kind = KAFKA_LOOKED };
	bool again = s->verify || !s->assigned;
	size_t i;

	s->look_ns = clock_mono_ns() + (uint64_t)s->w->conf.kafka_look *
	    1000000;
	if (s->verify && !verify(s, l)) {
		s->look_ns = clock_mono_ns() + RETRY_NS;
		return;
	}
	s->doubts = 0;
	if (s->at.looked && !s->assigned && !s->w->unclean)
		begin_run(s, l);
	for (i = 0; i < l->nfound; i++)
		if (offsets_find(&s->at, slice_of(l->found[i].topic,
		    strlen(l->found[i].topic)), l->found[i].partition) ==
		    NULL) {
			add_found(s, &l->found[i]);
			again = true;
		}
	if (!s->at.looked)
		put_note(s, &over);
	if (again)
		assign(s);
	end_if_over(s);
}

static bool
has_room(const struct kafka_source *s, const struct look *l)
{
	struct kafka_record r = { .kind = KAFKA_FOUND };

	return (source_space(s->w) > (l->nfound + s->at.n + 3) *
	    (ENTRY_HEADER + 8 + kafka_record_size(&r) + OFFSETS_TOPIC));
}

static void
look_on(struct kafka_source *s)
{
	static struct log_rate rate;
	struct look *l;

	if (!s->looking) {
		if (clock_mono_ns() >= s->look_ns && !(is_finite(s) &&
		    s->assigned && !s->verify))
			begin_look(s);
		return;
	}
	/* It stays with the thread while there is no room for it. */
	if ((l = handoff_take(&s->looker)) == NULL)
		return;
	s->looking = false;
	s->look_ns = clock_mono_ns() + RETRY_NS;
	if (l->failed && l->permanent && (!l->unsure || ++s->doubts >= DOUBTS))
		worker_fatal(s->w, EXIT_PERMANENT, "%s", l->err.text);
	if (l->failed && log_allowed(&rate))
		log_warn("%s; trying again", l->err.text);
	if (!l->failed && has_room(s, l))
		use_look(s, l);
	kafka_look_free(l);
}

/* --- messages ------------------------------------------------------------ */

static struct offset *
find_partition(struct kafka_source *s, const rd_kafka_message_t *m)
{
	const char *topic = m->rkt == NULL ? "" : rd_kafka_topic_name(m->rkt);
	struct offset *o;

	if (s->last < s->at.n) {		/* they come in batches */
		o = &s->at.o[s->last];
		if (o->partition == m->partition &&
		    strcmp(o->topic, topic) == 0)
			return (o);
	}
	o = offsets_find(&s->at, slice_of(topic, strlen(topic)),
	    m->partition);
	if (o != NULL)
		s->last = (uint32_t)(o - s->at.o);
	return (o);
}

static void
take_error(struct kafka_source *s, const rd_kafka_message_t *m)
{
	static struct log_rate rate;
	struct err err;

	/* The client does not read on there until it is told where. */
	if (m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET ||
	    m->err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE ||
	    m->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
	    m->err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
	    m->err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION) {
		s->verify = true;
		s->look_ns = 0;
		return;
	}
	(void)kafka_err(&err, ERR_CONFIG, &s->k, m->err, "reading");
	if (kafka_is_permanent(m->err))
		worker_fatal(s->w, EXIT_PERMANENT, "%s", err.text);
	if (log_allowed(&rate))
		log_warn("%s", err.text);
}

/* true: r is to be put. */
static bool
note_of(struct kafka_source *s, const rd_kafka_message_t *m,
    struct kafka_record *r)
{
	struct offset *o;

	memset(r, 0, sizeof(*r));
	if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
	    m->err != RD_KAFKA_RESP_ERR__PARTITION_EOF) {
		take_error(s, m);
		return (false);
	}
	if ((o = find_partition(s, m)) == NULL || m->offset < o->next)
		return (false);
	r->number = s->last;
	r->partition = m->partition;
	r->offset = m->offset;
	if (is_finite(s) && r->offset >= o->end) {
		r->kind = KAFKA_MOVED;		/* beyond: not for this run */
		r->offset = o->end;
		return (o->next < o->end);
	}
	if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
		r->kind = KAFKA_MOVED;
		return (m->offset > o->next);
	}
	r->kind = KAFKA_RECORD;
	return (true);
}

static void
add_headers(struct kafka_source *s, const rd_kafka_message_t *m)
{
	rd_kafka_headers_t *h;
	const char *name;
	const void *value;
	size_t i, len;

	buf_clear(&s->headers);
	if (rd_kafka_message_headers(m, &h) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	for (i = 0; rd_kafka_header_get_all(h, i, &name, &value, &len) ==
	    RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		kafka_header_put(&s->headers, name, value, len);
}

static void
fill_record(struct kafka_source *s, const rd_kafka_message_t *m,
    struct kafka_record *r)
{
	rd_kafka_timestamp_type_t type;
	const char *topic;

	if (r->kind != KAFKA_RECORD)
		return;
	topic = s->at.o[r->number].topic;
	r->topic = slice_of(topic, strlen(topic));
	r->time_ms = rd_kafka_message_timestamp(m, &type);
	r->has_key = m->key != NULL;
	if (r->has_key)
		r->key = slice_of(m->key, m->key_len);
	r->has_value = m->payload != NULL;
	r->value = slice_of(r->has_value ? m->payload : "", m->len);
	if (s->src->whole) {
		add_headers(s, m);
		r->headers = buf_slice(&s->headers);
	}
}

/* Bytes that message m takes at `to`; 0: none; more than room: it waits. */
static size_t
put_message(struct kafka_source *s, const rd_kafka_message_t *m, uint8_t *to,
    size_t room)
{
	struct kafka_record r;
	size_t len;

	if (!note_of(s, m, &r))
		return (0);
	fill_record(s, m, &r);
	len = kafka_record_size(&r);
	if (len > room)
		return (len);
	kafka_record_put(to, &r);
	(void)offsets_take(&s->at, &r, 0);
	return (len);
}

/* Messages into the staged entry; the bytes that they take. */
static size_t
fill_entry(struct kafka_source *s, uint8_t *to, size_t room, size_t *wants)
{
	rd_kafka_message_t *m = s->held;
	size_t used = 0, len;

	s->held = NULL;
	for (;;) {
		if (m == NULL &&
		    (m = rd_kafka_consumer_poll(s->k.rk, 0)) == NULL) {
			s->more = false;
			return (used);
		}
		len = put_message(s, m, to + used, room - used);
		if (len > room - used) {
			s->held = m;
			*wants = len;
			return (used);
		}
		rd_kafka_message_destroy(m);
		m = NULL;
		used += len;
	}
}

/* One that is larger than what entries usually have. */
static void
check_large(struct kafka_source *s, size_t len)
{
	uint64_t most = s->w->source_room - LEAST_ROOM - 2 * ENTRY_HEADER;

	if (len > s->src->max_size || len > most)
		worker_fatal(s->w, EXIT_PERMANENT, "source \"%s\": the record "
		    "at offset %" PRId64 " of partition %" PRId32 " of topic "
		    "\"%s\" has %zu bytes, more than fit into the journal: "
		    "raise journal-size", s->src->name, s->held->offset,
		    s->held->partition, rd_kafka_topic_name(s->held->rkt),
		    len);
}

/* false: there is nothing now, or no room for it. */
static bool
read_on(struct kafka_source *s, size_t least)
{
	struct source *src = &s->w->sources[s->i];
	uint64_t space = source_space(s->w);
	size_t room = space > FILE_BYTES && least == 0 ? FILE_BYTES :
	    (size_t)space, used, wants = 0;
	uint8_t *to;

	if (room == 0 || least > room)
		return (false);
	to = journal_stage(&s->w->journal, ENTRY_FILE, s->i, src->journaled,
	    (uint32_t)room, 0);
	used = fill_entry(s, to, room, &wants);
	if (used > 0) {
		journal_publish(&s->w->journal, (uint32_t)used);
		src->journaled += used;
		STAT_ADD(s->w->stats, bytes_in, used);
		end_if_over(s);
		return (s->more);
	}
	if (wants == 0)
		return (s->more);
	check_large(s, wants);
	return (least == 0 && read_on(s, wants));
}

/* --- the source ---------------------------------------------------------- */

static void
on_queue(struct ev_loop *loop, ev_io *io, int events)
{
	struct kafka_source *s = io->data;

	(void)loop;
	(void)events;
	kafka_woken(&s->k);
	s->more = true;			/* a turn follows */
}

static void
on_looked(struct ev_loop *loop, ev_async *a, int events)
{
	(void)loop;
	(void)a;
	(void)events;			/* a turn follows */
}

static void
on_offsets(rd_kafka_t *rk, rd_kafka_resp_err_t why,
    rd_kafka_topic_partition_list_t *list, void *arg)
{
	static struct log_rate rate;
	struct kafka *k = arg;
	struct kafka_source *s = k->arg;
	struct err err;

	(void)rk;
	(void)list;
	if (why == RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	s->untold = true;		/* again with the next checkpoint */
	if (!log_allowed(&rate))
		return;
	(void)kafka_err(&err, ERR_SYSTEM, k, why, "telling the group how far "
	    "we are, which only Kafka's tools miss");
	log_warn("%s", err.text);
}

static struct kafka_source *
begin(struct worker *w, size_t i)
{
	static const char *const defaults[] = {
		"isolation.level", "read_committed",
		"queued.max.messages.kbytes", "16384",
		"socket.nagle.disable", "true", NULL };
	struct kafka_source *s = xcalloc(1, sizeof(*s));
	const struct topo_source *src = &w->topo.sources[i];
	const char *fixed[] = { "group.id", src->group,
		"enable.auto.commit", "false",
		"enable.auto.offset.store", "false",
		"auto.offset.reset", "error",
		"enable.partition.eof", "true", NULL };
	struct kafka_how how = { .type = RD_KAFKA_CONSUMER, .what = "source",
	    .name = src->name, .defaults = defaults, .fixed = fixed,
	    .offset_commit_cb = on_offsets, .arg = s };
	struct err err;

	s->w = w;
	s->i = i;
	s->src = src;
	s->verify = true;
	offsets_copy(&s->at, &w->a.sources[i].offsets);
	if (!kafka_start_is_good(src->start))
		worker_fatal(w, EXIT_PERMANENT, "source \"%s\": start must be "
		    "earliest, latest, an offset, -N or time:MS, not \"%s\"",
		    src->name, src->start);
	ev_async_init(&s->looked, on_looked);
	ev_async_start(w->loop, &s->looked);
	handoff_init(&s->looker);
	if (kafka_open(&s->k, &how, &src->kafka, &err) == -1 ||
	    handoff_start(&s->looker, look, s, look_done, s, &err) == -1)
		worker_fatal_err(w, &err);
	ev_io_init(&s->io, on_queue, s->k.fd, EV_READ);
	s->io.data = s;
	ev_io_start(w->loop, &s->io);
	w->sources[i].kafka = s;
	return (s);
}

bool
kafka_source_pump(struct worker *w, size_t i)
{
	struct kafka_source *s = w->sources[i].kafka;

	/* What is replayed says where to begin. */
	if (w->sources[i].eof || w->a.pos < w->replay_to)
		return (false);
	if (s == NULL)
		s = begin(w, i);
	look_on(s);
	return (s->assigned && !w->sources[i].eof && s->more &&
	    read_on(s, 0));
}

/* --- lag ----------------------------------------------------------------- */

static uint64_t
lag_of(const struct kafka_source *s, const struct offset *o)
{
	int64_t low, high;

	/* From its memory; below 0 before the first answer. */
	if (rd_kafka_get_watermark_offsets(s->k.rk, o->topic, o->partition,
	    &low, &high) != RD_KAFKA_RESP_ERR_NO_ERROR || high < o->end)
		high = o->end;
	return (high > o->next ? (uint64_t)(high - o->next) : 0);
}

/* Partitions [from, to), of one topic. */
static void
say_lags(const struct kafka_source *s, uint32_t from, uint32_t to)
{
	uint8_t lags[LAGS * LAG_SIZE], *p = lags;
	struct msg_lag m = { .source = (uint32_t)s->i, .from = from,
	    .topic = msg_cstr(s->at.o[from].topic),
	    .lags = slice_of(lags, (to - from) * LAG_SIZE) };
	struct buf b = { 0 };
	uint32_t i;

	for (i = from; i < to; i++, p += LAG_SIZE) {
		memcpy(p, &s->at.o[i].partition, 4);
		memcpy(p + 4, &s->lags[i], 8);
	}
	msg_put_lag(&b, &m);
	control_send(s->w, &b);
	buf_fini(&b);
}

/* What the supervisor does not know yet; the sum of all. */
static uint64_t
tell_lags(struct kafka_source *s)
{
	uint64_t sum = 0, lag;
	bool news = false;
	uint32_t i, from;

	s->lags = xreallocarray(s->lags, s->at.n + 1, sizeof(*s->lags));
	for (i = from = 0; i < s->at.n; i++) {
		lag = lag_of(s, &s->at.o[i]);
		news |= i >= s->nlags || s->lags[i] != lag;
		s->lags[i] = lag;
		sum += lag;
		if (i + 1 < s->at.n && i + 1 - from < LAGS &&
		    strcmp(s->at.o[i + 1].topic, s->at.o[from].topic) == 0)
			continue;
		if (news)
			say_lags(s, from, i + 1);
		news = false;
		from = i + 1;
	}
	s->nlags = s->at.n;
	return (sum);
}

void
kafka_source_lag(struct worker *w)
{
	uint64_t lag = 0;
	bool any = false;
	size_t i;

	for (i = 0; i < w->topo.nsources; i++)
		if (w->sources[i].kafka != NULL) {
			lag += tell_lags(w->sources[i].kafka);
			any = true;
		}
	if (any)
		STAT_SET(w->stats, kafka_lag, lag);
}

/* --- checkpoints --------------------------------------------------------- */

void
kafka_source_taken(struct worker *w)
{
	struct offsets *t;
	uint32_t i;
	size_t k;

	for (k = 0; k < w->topo.nsources; k++) {
		t = &w->a.sources[k].offsets;
		for (i = 0; i < t->n; i++)
			t->o[i].taken = t->o[i].next;
	}
}

/* One try, which ends before the deadline. */
static bool
commit_once(struct kafka_source *s,
    const rd_kafka_topic_partition_list_t *list, uint64_t deadline_ns)
{
	rd_kafka_queue_t *answer = rd_kafka_queue_new(s->k.rk);
	uint64_t now_ns = clock_mono_ns();
	rd_kafka_event_t *event = NULL;
	bool ok;

	if (now_ns < deadline_ns && rd_kafka_commit_queue(s->k.rk, list,
	    answer, NULL, NULL) == RD_KAFKA_RESP_ERR_NO_ERROR)
		event = rd_kafka_queue_poll(answer,
		    (int)((deadline_ns - now_ns) / 1000000));
	ok = event != NULL &&
	    rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR;
	if (event != NULL)
		rd_kafka_event_destroy(event);
	rd_kafka_queue_destroy(answer);
	return (ok);
}

/* Who ends cannot be told later. */
static void
commit_now(struct kafka_source *s,
    const rd_kafka_topic_partition_list_t *list)
{
	uint64_t deadline_ns = clock_mono_ns() + LAST_MS * 1000000ULL;
	const struct timespec pause = { 0, 50000000 };

	while (!commit_once(s, list, deadline_ns)) {
		if (clock_mono_ns() >= deadline_ns) {
			log_warn("source \"%s\": the group was not told how "
			    "far we are, which only Kafka's tools miss",
			    s->src->name);
			return;
		}
		(void)nanosleep(&pause, NULL);
	}
}

static void
tell_group(struct kafka_source *s, struct offsets *t, bool last)
{
	rd_kafka_topic_partition_list_t *list =
	    rd_kafka_topic_partition_list_new((int)t->n + 1);
	struct offset *o;
	uint32_t i;

	for (i = 0; i < t->n; i++) {
		o = &t->o[i];
		if (o->taken == -1 ||
		    (o->taken == o->told && !s->untold && !last))
			continue;
		o->told = o->taken;
		rd_kafka_topic_partition_list_add(list, o->topic,
		    o->partition)->offset = o->taken;
	}
	s->untold = false;
	if (list->cnt > 0 && last)
		commit_now(s, list);
	else if (list->cnt > 0)
		(void)rd_kafka_commit(s->k.rk, list, 1);
	rd_kafka_topic_partition_list_destroy(list);
}

void
kafka_source_committed(struct worker *w, bool last)
{
	size_t i;

	for (i = 0; i < w->topo.nsources; i++)
		if (w->sources[i].kafka != NULL &&
		    w->sources[i].kafka->assigned)
			tell_group(w->sources[i].kafka,
			    &w->a.sources[i].offsets, last);
}
