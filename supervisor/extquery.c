/*
 * What the external channel answers.  Stages are known by a number made of
 * their name, so that it is the same everywhere and after every start.  Keys
 * are asked of one worker and stage after the other; everything else the
 * supervisor knows itself.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "common/part.h"
#include "supervisor/supervisor.h"

#define PRINT_MOST	4000		/* bytes of a text in the log */
#define JSON_DEPTH	16

/* --- names --------------------------------------------------------------- */

static void
put_worker(const struct supervisor *s, struct buf *b, uint32_t worker)
{
	char *name = machida_worker(s, worker);

	ctl_json_str(b, msg_cstr(name));
	free(name);
}

static void
put_hash(struct buf *b, const char *kind, size_t index, const char *name)
{
	char *text = xasprintf("%s %zu %s", kind, index, name);

	buf_addf(b, "\"%" PRIu64 "\"", part_hash(msg_cstr(text)));
	free(text);
}

/* States are found again by name; other stages may share one. */
static void
put_stage(struct buf *b, const struct topo *t, size_t i)
{
	if (stage_is_state(&t->stages[i]))
		put_hash(b, "state", 0, t->stages[i].name);
	else
		put_hash(b, "step", i, t->stages[i].name);
}

/* --- what the supervisor knows ------------------------------------------- */

static bool
is_known(const struct supervisor *s)
{
	return (s->described && s->n > 0 && s->ran);
}

static void
put_status(const struct supervisor *s, struct buf *b)
{
	uint32_t i;

	buf_addf(b, "{\"worker_count\":%u,\"worker_names\":[", s->n);
	for (i = 0; i < s->n; i++) {
		if (i > 0)
			buf_addf(b, ",");
		put_worker(s, b, i);
	}
	buf_addf(b, "],\"processing_messages\":%s}",
	    s->state == APP_RUNNING && !s->stopping &&
	    (s->announced || !machida_is(s)) ? "true" : "false");
}

static void
put_sources(const struct supervisor *s, struct buf *b)
{
	size_t i;

	buf_addf(b, "{\"source_ids\":[");
	for (i = 0; i < s->topo.nsources; i++) {
		if (i > 0)
			buf_addf(b, ",");
		put_hash(b, "source", 0, s->topo.sources[i].name);
	}
	buf_addf(b, "]}");
}

/* The partitions that a worker owns, or how many. */
static void
put_owned(struct buf *b, const uint16_t *table, uint32_t parts,
    uint32_t worker, bool count)
{
	const char *comma = "";
	uint32_t i, n = 0;

	if (!count)
		buf_addf(b, "[");
	for (i = 0; i < parts; i++) {
		if (table[i] != worker)
			continue;
		n++;
		if (!count)
			buf_addf(b, "%s\"%u\"", comma, i);
		comma = ",";
	}
	if (count)
		buf_addf(b, "%u", n);
	else
		buf_addf(b, "]");
}

/* {stage: {worker: [ids] or their number}} of the stages with state, or of
 * those that are steps without. */
static void
put_stages(const struct supervisor *s, struct buf *b, bool states, bool count)
{
	uint32_t parts = (uint32_t)s->conf.partitions, w;
	uint16_t *table = xcalloc(parts, sizeof(*table));
	const char *comma = "";
	size_t i;

	if (s->n > 0)
		part_assign(table, parts, s->n);
	buf_addf(b, "{");
	for (i = 0; i < s->topo.nstages; i++) {
		if (states ? !stage_is_state(&s->topo.stages[i]) :
		    s->topo.stages[i].kind != STAGE_STEP)
			continue;
		buf_addf(b, "%s", comma);
		comma = ",";
		put_stage(b, &s->topo, i);
		buf_addf(b, ":{");
		for (w = 0; w < s->n; w++) {
			if (w > 0)
				buf_addf(b, ",");
			put_worker(s, b, w);
			buf_addf(b, ":");
			if (states)
				put_owned(b, table, parts, w, count);
			else if (count)
				buf_addf(b, "1");
			else {
				buf_addf(b, "[");
				put_stage(b, &s->topo, i);
				buf_addf(b, "]");
			}
		}
		buf_addf(b, "}");
	}
	buf_addf(b, "}");
	free(table);
}

static void
put_partitions(const struct supervisor *s, struct buf *b, bool count)
{
	buf_addf(b, "{\"state_partitions\":");
	put_stages(s, b, true, count);
	buf_addf(b, ",\"stateless_partitions\":");
	put_stages(s, b, false, count);
	buf_addf(b, "}");
}

/* --- lists of keys ------------------------------------------------------- */

/* The next stage with state, from i on; nstages: there is none. */
static uint32_t
state_stage(const struct topo *t, uint32_t i)
{
	while (i < t->nstages && !stage_is_state(&t->stages[i]))
		i++;
	return (i);
}

/* What stands before the answer to the question that comes next. */
static void
list_head(const struct supervisor *s, struct ext_list *l)
{
	struct buf *b = &l->text;
	bool each = l->id == EXT_CLUSTER_COUNT;

	if (each && l->stage == state_stage(&s->topo, 0)) {
		buf_addf(b, l->worker == 0 ? "{" : "},");
		put_worker(s, b, l->worker);
		buf_addf(b, ":{");
	}
	if (each || l->worker == 0) {
		if (b->data[b->len - 1] != '{')
			buf_addf(b, ",");
		put_stage(b, &s->topo, l->stage);
		buf_addf(b, l->id == EXT_KEYS ? ":[" : ":");
		l->sum = 0;
	}
	l->at = b->len;
	l->from = 0;
}

/* true: there is no further question. */
static bool
list_next(const struct supervisor *s, struct ext_list *l)
{
	if (l->id == EXT_CLUSTER_COUNT) {
		l->stage = state_stage(&s->topo, l->stage + 1);
		if (l->stage == s->topo.nstages) {
			l->stage = state_stage(&s->topo, 0);
			l->worker++;
		}
		return (l->worker == s->n);
	}
	if (++l->worker < s->n)
		return (false);
	l->worker = 0;
	l->stage = state_stage(&s->topo, l->stage + 1);
	return (l->stage == s->topo.nstages);
}

/* Nobody need be asked: no stage has keys, or nobody can be yet. */
static void
list_empty(const struct supervisor *s, struct buf *b, unsigned int id)
{
	uint32_t n = id == EXT_CLUSTER_COUNT ? s->n : 1, w;
	uint32_t first = state_stage(&s->topo, 0), i;

	if (id == EXT_CLUSTER_COUNT)
		buf_addf(b, "{");
	for (w = 0; w < n; w++) {
		if (w > 0)
			buf_addf(b, ",");
		if (id == EXT_CLUSTER_COUNT) {
			put_worker(s, b, w);
			buf_addf(b, ":");
		}
		buf_addf(b, "{");
		for (i = first; i < s->topo.nstages;
		    i = state_stage(&s->topo, i + 1)) {
			if (i > first)
				buf_addf(b, ",");
			put_stage(b, &s->topo, i);
			buf_addf(b, id == EXT_KEYS ? ":[]" : ":0");
		}
		buf_addf(b, "}");
	}
	if (id == EXT_CLUSTER_COUNT)
		buf_addf(b, "}");
}

static void
list_begin(struct supervisor *s, struct ext_conn *c, struct ext_list *l,
    unsigned int id)
{
	struct buf b = { 0 };
	uint32_t first = state_stage(&s->topo, 0);

	if (!is_known(s) || s->state != APP_RUNNING ||
	    first == s->topo.nstages) {
		list_empty(s, &b, id);
		external_reply(c, id + 1, buf_slice(&b));
		buf_fini(&b);
		return;
	}
	memset(l, 0, sizeof(*l));
	l->id = id;
	l->stage = first;
	if (id != EXT_CLUSTER_COUNT)
		buf_addf(&l->text, "{");
	list_head(s, l);
}

bool
extquery_ask(struct supervisor *s, struct ext_list *l)
{
	struct msg_list m;
	struct buf b = { 0 };

	if (l->worker >= s->n ||
	    s->child[l->worker].state != CHILD_RUNNING)
		return (false);
	if (l->serial == 0)
		l->serial = ++s->ctl_serial;
	m.id = l->serial;
	m.stage = l->stage;
	m.names = l->id == EXT_KEYS;
	m.from = l->from;
	msg_put_list(&b, &m);
	channel_send(&s->child[l->worker], &b, -1);
	buf_fini(&b);
	return (true);
}

static void
list_failed(struct ext_list *l, struct slice text)
{
	buf_clear(&l->text);
	buf_addf(&l->text, "{\"error\":");
	ctl_json_str(&l->text, text);
	buf_addf(&l->text, "}");
}

/* This worker's part of this stage is complete. */
static void
list_tail(const struct supervisor *s, struct ext_list *l, uint64_t keys)
{
	bool last = l->worker + 1 == s->n;

	l->sum += keys;
	if (l->id == EXT_CLUSTER_COUNT)
		buf_addf(&l->text, "%" PRIu64, keys);
	else if (l->id == EXT_KEY_COUNT && last)
		buf_addf(&l->text, "%" PRIu64, l->sum);
	else if (l->id == EXT_KEYS && last)
		buf_addf(&l->text, "]");
}

bool
extquery_listed(struct supervisor *s, struct ext_list *l,
    const struct msg_listed *m)
{
	struct buf *b = &l->text;

	if (!m->ok) {
		list_failed(l, m->part);
		return (true);
	}
	if (m->part.len > 0) {
		/* After what another worker had. */
		if (l->from == 0 && b->data[b->len - 1] != '[')
			buf_addf(b, ",");
		buf_add(b, m->part.data, m->part.len);
		l->from += m->part.len;
		if (l->from < m->size) {
			(void)extquery_ask(s, l);
			return (false);
		}
	}
	list_tail(s, l, m->keys);
	l->serial = 0;
	if (list_next(s, l)) {
		buf_addf(b, l->id == EXT_CLUSTER_COUNT ? "}}" : "}");
		return (true);
	}
	list_head(s, l);
	return (false);
}

/* --- the JSON of a shrink ------------------------------------------------ */

struct json {
	const uint8_t	*p;
	const uint8_t	*end;
	int		 query;		/* what it said, -1: nothing yet */
	bool		 bad;
};

static void json_value(struct json *, int depth);

static void
json_blanks(struct json *j)
{
	while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' ||
	    *j->p == '\n' || *j->p == '\r'))
		j->p++;
}

static bool
json_take(struct json *j, uint8_t c)
{
	json_blanks(j);
	if (j->bad || j->p == j->end || *j->p != c)
		return (false);
	j->p++;
	return (true);
}

static bool
json_word(struct json *j, const char *word)
{
	size_t n = strlen(word);

	if ((size_t)(j->end - j->p) < n || memcmp(j->p, word, n) != 0)
		return (false);
	j->p += n;
	return (true);
}

/* What stands between the quotes, as it is written. */
static struct slice
json_string(struct json *j)
{
	const uint8_t *from;

	if (!json_take(j, '"')) {
		j->bad = true;
		return (slice_of("", 0));
	}
	from = j->p;
	while (j->p < j->end && *j->p != '"')
		j->p += *j->p == '\\' && j->end - j->p > 1 ? 2 : 1;
	if (j->p >= j->end) {
		j->bad = true;
		j->p = j->end;
		return (slice_of("", 0));
	}
	return (slice_of(from, (size_t)(j->p++ - from)));
}

static void
json_object(struct json *j, int depth)
{
	struct slice key;

	if (json_take(j, '}'))
		return;
	do {
		key = json_string(j);
		if (!json_take(j, ':'))
			j->bad = true;
		json_blanks(j);
		if (depth == 0 && key.len == 5 &&
		    memcmp(key.data, "query", 5) == 0)
			j->query = j->p < j->end && *j->p == 't';
		json_value(j, depth + 1);
	} while (json_take(j, ','));
	if (!json_take(j, '}'))
		j->bad = true;
}

static void
json_value(struct json *j, int depth)
{
	const uint8_t *from;

	json_blanks(j);
	if (j->bad || depth > JSON_DEPTH || j->p == j->end)
		j->bad = true;
	else if (json_take(j, '{'))
		json_object(j, depth);
	else if (json_take(j, '[')) {
		if (json_take(j, ']'))
			return;
		do
			json_value(j, depth + 1);
		while (json_take(j, ','));
		if (!json_take(j, ']'))
			j->bad = true;
	} else if (*j->p == '"')
		(void)json_string(j);
	else if (!json_word(j, "true") && !json_word(j, "false") &&
	    !json_word(j, "null")) {
		for (from = j->p; j->p < j->end && (strchr("+-.eE", *j->p) !=
		    NULL || (*j->p >= '0' && *j->p <= '9')) && *j->p != '\0';
		    j->p++)
			;
		j->bad |= j->p == from;
	}
}

int
extquery_shrink(struct slice text)
{
	struct json j = { text.data, text.data + text.len, -1, false };

	json_blanks(&j);
	if (j.p == j.end || *j.p != '{')
		return (-1);
	json_value(&j, 0);
	json_blanks(&j);
	if (j.bad || j.p != j.end)
		return (-1);
	return (j.query == 1);
}

static void
shrink(struct ext_conn *c, struct slice text)
{
	static const char nobody[] = "{\"node_names\":[],\"node_count\":0}";
	int query = extquery_shrink(text);

	if (query == 1)
		external_reply(c, EXT_SHRINK_ANSWER, msg_cstr(nobody));
	else
		external_reply(c, EXT_SHRINK_ERROR, msg_cstr(query == -1 ?
		    "a shrink wants {\"query\": BOOL, \"node_names\": [..], "
		    "\"node_count\": N}" : "no worker can leave while the "
		    "application runs: stop it, and start it again with a "
		    "smaller number of workers"));
}

/* --- requests ------------------------------------------------------------ */

static void
say(const char *what, struct slice text)
{
	static struct log_rate rate;

	if (log_allowed(&rate))
		log_info("external channel: %s: %.*s", what, (int)(text.len <
		    PRINT_MOST ? text.len : PRINT_MOST),
		    (const char *)text.data);
}

/* What is on its way between workers. */
static void
report(const struct supervisor *s, struct slice what)
{
	static struct log_rate rate;
	uint32_t i;

	say("report", what);
	for (i = 0; i < s->n && log_allowed(&rate); i++)
		log_info("boundary report worker=%u boundaries=%u "
		    "outbox_bytes=%" PRIu64 " frames_in=%" PRIu64, i,
		    s->n - 1, STAT_GET(s->child[i].stats, outbox_bytes),
		    STAT_GET(s->child[i].stats, frames_in));
}

static void
shut_down(struct supervisor *s, struct slice text)
{
	say("shutdown requested, the state will be removed", text);
	s->discard = true;
	app_stop(s);
}

static void
reply_known(struct supervisor *s, struct ext_conn *c, unsigned int id)
{
	struct buf b = { 0 };

	if (id == EXT_STATUS)
		put_status(s, &b);
	else if (id == EXT_SOURCES)
		put_sources(s, &b);
	else if (id == EXT_STATELESS || id == EXT_STATELESS_COUNT)
		put_stages(s, &b, STAGE_STEP, id == EXT_STATELESS_COUNT);
	else
		put_partitions(s, &b, id == EXT_PARTITION_COUNT);
	external_reply(c, id + 1, buf_slice(&b));
	buf_fini(&b);
}

bool
extquery_request(struct supervisor *s, struct ext_conn *c,
    struct ext_list *l, unsigned int id, struct slice payload)
{
	switch (id) {
	case EXT_PRINT:
		say("print", payload);
		return (true);
	case EXT_ROTATE:
		say("nothing to rotate, journals are freed by checkpoints",
		    payload);
		return (true);
	case EXT_SHUTDOWN:
		shut_down(s, payload);
		return (true);
	case EXT_SHRINK:
		shrink(c, payload);
		return (true);
	case EXT_REPORT:
		report(s, payload);
		return (true);
	case EXT_STATUS:
		if (is_known(s))
			reply_known(s, c, id);
		else
			external_reply(c, EXT_STATUS_NOT_YET,
			    slice_of("", 0));
		return (true);
	case EXT_PARTITIONS:
	case EXT_PARTITION_COUNT:
	case EXT_SOURCES:
	case EXT_STATELESS:
	case EXT_STATELESS_COUNT:
		reply_known(s, c, id);
		return (true);
	case EXT_KEYS:
	case EXT_KEY_COUNT:
	case EXT_CLUSTER_COUNT:
		list_begin(s, c, l, id);
		return (true);
	default:
		return (false);
	}
}
