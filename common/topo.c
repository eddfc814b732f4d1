/*
 * The pipeline as data: from bytes to checked structs.  Whoever holds a
 * struct topo may index with its numbers without looking again.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/mp.h"
#include "common/topo.h"

#define TOPO_MAGIC	"wallaroo-topology"
#define TOPO_VERSION	1
#define TOPO_MAX	4096		/* sources, stages or sinks */
#define TOPO_MAX_SIZE	(1U << 30)	/* bytes of one payload */

static const char *const source_kinds[] = { "tcp", "gen", "file", "stdin",
    "connector", "kafka", NULL };
static const char *const framings[] = { "header", "custom", "lines", "none",
    "connector", "kafka", NULL };
static const char *const setting_froms[] = { "value", "file", "env", NULL };
static const char *const stage_kinds[] = { "step", "state", "key_by",
    "collect", "exchange", "sinks", "range_windows", "count_windows",
    "event_time", "timed_state", NULL };
static const char *const sink_kinds[] = { "tcp", "file", "stdout",
    "connector", "kafka", "dead-letter", NULL };
static const char *const policies[] = { "default", "fail", "skip",
    "dead-letter", NULL };

/*
 * Reading.
 */

static int
get_name(struct mp *c, const char *const *names)
{
	struct slice s = mp_get_str(c);

	for (int i = 0; mp_ok(c) && names[i] != NULL; i++)
		if (strlen(names[i]) == s.len &&
		    (s.len == 0 || memcmp(names[i], s.data, s.len) == 0))
			return (i);
	c->bad = true;
	return (0);
}

/* A number of something, -1 = none. */
static int
get_index(struct mp *c)
{
	int64_t v = mp_get_int(c);

	if (v < -1 || v > INT32_MAX)
		c->bad = true;
	return (mp_ok(c) ? (int)v : -1);
}

static bool
is_struct_prefix(char c)
{
	return (c == '>' || c == '<' || c == '!' || c == '=');
}

/* ">I" and the like, as Python's struct module has them. */
static void
get_format(struct topo_source *s, struct mp *c)
{
	struct slice f = mp_get_str(c);
	char text[3] = "";
	const char *p = text;
	uint32_t width;

	if (s->framing == FRAMING_CONNECTOR || s->framing == FRAMING_KAFKA)
		s->header_big = true;
	if (s->framing != FRAMING_HEADER)
		return;
	if (f.len == 0 || f.len > 2) {
		c->bad = true;
		return;
	}
	memcpy(text, f.data, f.len);
	s->header_big = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
	if (is_struct_prefix(*p)) {
		if (*p != '=')
			s->header_big = *p == '>' || *p == '!';
		p++;
	}
	switch (*p) {
	case 'b':
	case 'B':
		width = 1;
		break;
	case 'h':
	case 'H':
		width = 2;
		break;
	case 'i':
	case 'I':
		width = 4;
		break;
	case 'l':
	case 'L':
		/* Without a prefix it is the machine's long. */
		width = p == text ? sizeof(long) : 4;
		break;
	case 'q':
	case 'Q':
		width = 8;
		break;
	default:
		width = 0;
		break;
	}
	s->header_signed = *p >= 'a';
	if (width == 0 || p[1] != '\0' || width != s->header_length)
		c->bad = true;
}

/* Of a source or a sink. */
static void
get_kafka(struct topo_kafka *k, struct mp *c)
{
	struct topo_setting *s;
	uint32_t n;

	k->brokers = mp_get_strdup(c);
	n = mp_get_array(c);
	k->settings = xcalloc((size_t)n + 1, sizeof(*k->settings));
	for (; k->nsettings < n && mp_ok(c); k->nsettings++) {
		s = &k->settings[k->nsettings];
		if (mp_get_array(c) != 3)
			c->bad = true;
		s->name = mp_get_strdup(c);
		s->from = (enum topo_setting_from)get_name(c, setting_froms);
		s->text = mp_get_strdup(c);
	}
}

static void
kafka_fini(struct topo_kafka *k)
{
	for (size_t i = 0; i < k->nsettings; i++) {
		free(k->settings[i].name);
		free(k->settings[i].text);
	}
	free(k->settings);
	free(k->brokers);
}

static void
get_kafka_source(struct topo_source *s, struct mp *c)
{
	uint32_t n;

	get_kafka(&s->kafka, c);
	n = mp_get_array(c);
	s->topics = xcalloc((size_t)n + 1, sizeof(*s->topics));
	for (; s->ntopics < n && mp_ok(c); s->ntopics++)
		s->topics[s->ntopics] = mp_get_strdup(c);
	s->group = mp_get_strdup(c);
	s->start = mp_get_strdup(c);
	s->whole = mp_get_bool(c);
}

/* How many fields a source of this kind has. */
static uint32_t
source_fields(enum topo_source_kind kind)
{
	return (kind == SOURCE_CONNECTOR ? 16 : kind == SOURCE_KAFKA ? 19 :
	    13);
}

static void
get_source(struct topo_source *s, struct mp *c)
{
	uint32_t n = mp_get_array(c);
	struct slice key;

	s->name = mp_get_strdup(c);
	s->kind = (enum topo_source_kind)get_name(c, source_kinds);
	s->next = get_index(c);
	s->fn = get_index(c);
	s->framing = (enum topo_framing)get_name(c, framings);
	s->header_length = (uint32_t)mp_get_uint(c, UINT32_MAX);
	get_format(s, c);
	s->max_size = mp_get_uint(c, TOPO_MAX_SIZE);
	s->host = mp_get_strdup(c);
	s->port = (uint32_t)mp_get_uint(c, UINT16_MAX);
	s->path = mp_get_strdup(c);
	key = mp_get_bin(c);
	s->key = xmalloc(key.len);
	if (key.len > 0)
		memcpy(s->key, key.data, key.len);
	s->key_len = key.len;
	s->parallelism = (uint32_t)mp_get_uint(c, UINT32_MAX);
	if (n != source_fields(s->kind))
		c->bad = true;
	if (s->kind == SOURCE_KAFKA)
		get_kafka_source(s, c);
	if (s->kind != SOURCE_CONNECTOR)
		return;
	s->cookie = mp_get_strdup(c);
	s->max_credits = (uint32_t)mp_get_uint(c, UINT32_MAX);
	s->refill_credits = (uint32_t)mp_get_uint(c, UINT32_MAX);
}

static void
get_stage(struct topo_stage *s, struct mp *c)
{
	uint32_t n = mp_get_array(c);

	s->name = mp_get_strdup(c);
	s->kind = (enum topo_stage_kind)get_name(c, stage_kinds);
	s->next = get_index(c);
	s->fn = get_index(c);
	s->exchange = get_index(c);
	s->multi = mp_get_bool(c);
	s->policy = (enum topo_policy)get_name(c, policies);
	s->version = (uint32_t)mp_get_uint(c, UINT32_MAX);
	if (s->kind == STAGE_STATE && n == 9)
		s->on_end = get_index(c) + 1;
	else if (s->kind == STAGE_TIMED && n == 9)
		s->by_event = mp_get_bool(c);
	else if (n != (stage_has_windows(s) || s->kind == STAGE_EVENT_TIME ?
	    10 : 8) && (n != 11 || s->kind != STAGE_RANGE))
		c->bad = true;
	else if (s->kind == STAGE_TIMED)
		c->bad = true;
	if (stage_has_windows(s)) {
		s->timeout_ns = mp_get_uint(c, INT64_MAX);
		s->patience_ns = mp_get_uint(c, INT64_MAX);
		if (n == 11)
			s->late = get_index(c) + 1;
	} else if (s->kind == STAGE_EVENT_TIME) {
		s->lateness_ns = mp_get_uint(c, INT64_MAX);
		s->idle_ns = mp_get_uint(c, INT64_MAX);
	}
}

static void
get_kafka_sink(struct topo_sink *s, struct mp *c)
{
	get_kafka(&s->kafka, c);
	s->topic = mp_get_strdup(c);
	s->exactly_once = mp_get_bool(c);
	s->commit_ms = (uint32_t)mp_get_uint(c, 3600000);
}

static void
get_sink(struct topo_sink *s, struct mp *c)
{
	uint32_t n = mp_get_array(c);

	s->name = mp_get_strdup(c);
	s->kind = (enum topo_sink_kind)get_name(c, sink_kinds);
	s->fn = get_index(c);
	s->host = mp_get_strdup(c);
	s->port = (uint32_t)mp_get_uint(c, UINT16_MAX);
	s->path = mp_get_strdup(c);
	s->exchange = get_index(c);
	s->policy = (enum topo_policy)get_name(c, policies);
	if (n != (s->kind == SINK_CONNECTOR ? 9 : s->kind == SINK_KAFKA ?
	    13 : 8))
		c->bad = true;
	if (s->kind == SINK_CONNECTOR)
		s->cookie = mp_get_strdup(c);
	if (s->kind == SINK_KAFKA)
		get_kafka_sink(s, c);
}

static size_t
get_count(struct mp *c)
{
	uint32_t n = mp_get_array(c);

	if (n == 0 || n > TOPO_MAX)
		c->bad = true;
	return (mp_ok(c) ? n : 0);
}

static int
read_all(struct topo *t, struct mp *c, struct err *err)
{
	struct slice magic;
	uint32_t parts = mp_get_array(c);

	if (parts != 6 && parts != 7)
		c->bad = true;
	magic = mp_get_str(c);
	if (!mp_ok(c) || magic.len != strlen(TOPO_MAGIC) ||
	    memcmp(magic.data, TOPO_MAGIC, magic.len) != 0)
		return (err_set(err, ERR_CORRUPT, "not a topology"));
	if (mp_get_uint(c, UINT64_MAX) != TOPO_VERSION)
		return (err_set(err, ERR_CORRUPT,
		    "a topology of another version"));
	t->application = mp_get_strdup(c);
	t->nsources = get_count(c);
	t->sources = xcalloc(t->nsources, sizeof(*t->sources));
	for (size_t i = 0; i < t->nsources; i++) {
		get_source(&t->sources[i], c);
		if (!mp_ok(c))
			return (err_set(err, ERR_CORRUPT,
			    "malformed topology: source %zu", i));
	}
	t->nstages = get_count(c);
	t->stages = xcalloc(t->nstages, sizeof(*t->stages));
	for (size_t i = 0; i < t->nstages; i++) {
		get_stage(&t->stages[i], c);
		if (!mp_ok(c))
			return (err_set(err, ERR_CORRUPT,
			    "malformed topology: stage %zu", i));
	}
	t->nsinks = get_count(c);
	t->sinks = xcalloc(t->nsinks, sizeof(*t->sinks));
	for (size_t i = 0; i < t->nsinks; i++) {
		get_sink(&t->sinks[i], c);
		if (!mp_ok(c))
			return (err_set(err, ERR_CORRUPT,
			    "malformed topology: sink %zu", i));
	}
	t->version = parts == 7 ? mp_get_strdup(c) : xstrdup("");
	if (!mp_end(c))
		return (err_set(err, ERR_CORRUPT, "malformed topology"));
	return (0);
}

/*
 * Checking.
 */

static int
bad(struct err *err, const char *what, const char *name, const char *why)
{
	return (err_set(err, ERR_CONFIG, "%s \"%s\": %s", what, name, why));
}

static int
check_kafka_source(const struct topo_source *s, struct err *err)
{
	size_t i;

	if (s->kafka.brokers[0] == '\0')
		return (bad(err, "source", s->name, "has no brokers"));
	if (s->group[0] == '\0')
		return (bad(err, "source", s->name, "has no group"));
	for (i = 0; i < s->ntopics; i++)
		if (s->topics[i][0] == '\0')
			break;
	if (s->ntopics == 0 || i < s->ntopics)
		return (bad(err, "source", s->name, "has no topic"));
	return (0);
}

static int
check_source(const struct topo *t, const struct topo_source *s,
    struct err *err)
{
	bool gen = s->kind == SOURCE_GEN;

	if (s->next < 0 || (size_t)s->next >= t->nstages)
		return (bad(err, "source", s->name, "leads nowhere"));
	if (gen != (s->framing == FRAMING_NONE))
		return (bad(err, "source", s->name, gen ?
		    "a generator has no framing" : "has no framing"));
	if (s->fn == -1 && (gen || s->framing == FRAMING_CUSTOM))
		return (bad(err, "source", s->name, "has no function"));
	if ((s->framing == FRAMING_HEADER || s->framing == FRAMING_CUSTOM) &&
	    (s->header_length < 1 || s->header_length > 8))
		return (bad(err, "source", s->name,
		    "the header must have 1 to 8 bytes"));
	if (!gen && s->max_size == 0)
		return (bad(err, "source", s->name,
		    "the largest size must not be 0"));
	if (source_listens(s) && s->host[0] == '\0')
		return (bad(err, "source", s->name, "has no address"));
	if (source_listens(s) && s->parallelism == 0)
		return (bad(err, "source", s->name,
		    "parallelism must not be 0"));
	if ((s->kind == SOURCE_CONNECTOR) !=
	    (s->framing == FRAMING_CONNECTOR) ||
	    (s->framing == FRAMING_CONNECTOR && s->header_length != 4))
		return (bad(err, "source", s->name,
		    "a connector has a framing of its own"));
	if ((s->kind == SOURCE_KAFKA) != (s->framing == FRAMING_KAFKA) ||
	    (s->framing == FRAMING_KAFKA && s->header_length != 4))
		return (bad(err, "source", s->name,
		    "Kafka has a framing of its own"));
	if (s->kind == SOURCE_KAFKA)
		return (check_kafka_source(s, err));
	if (s->kind == SOURCE_CONNECTOR &&
	    s->refill_credits >= s->max_credits)
		return (bad(err, "source", s->name,
		    "refill_credits must be less than max_credits"));
	if (s->kind == SOURCE_FILE && s->path[0] == '\0')
		return (bad(err, "source", s->name, "has no path"));
	return (0);
}

static int
check_stage(const struct topo *t, const struct topo_stage *s,
    struct err *err)
{
	bool has_fn = s->kind == STAGE_STEP || stage_has_state(s) ||
	    s->kind == STAGE_KEY_BY || s->kind == STAGE_EVENT_TIME;
	bool may_hop = s->kind == STAGE_KEY_BY || s->kind == STAGE_COLLECT ||
	    s->kind == STAGE_EXCHANGE;

	if (s->kind == STAGE_SINKS ? s->next != -1 :
	    s->next < 0 || (size_t)s->next >= t->nstages)
		return (bad(err, "stage", s->name, "leads nowhere"));
	if (has_fn != (s->fn != -1))
		return (bad(err, "stage", s->name, has_fn ?
		    "has no function" : "must not have a function"));
	if (s->exchange != -1 ? !may_hop : s->kind == STAGE_EXCHANGE)
		return (bad(err, "stage", s->name, may_hop ?
		    "has no exchange" : "must not have an exchange"));
	if (s->multi && s->kind != STAGE_STEP && s->kind != STAGE_STATE)
		return (bad(err, "stage", s->name,
		    "only a computation gives several outputs"));
	return (0);
}

static int
check_sink(const struct topo *t, const struct topo_sink *s, struct err *err)
{
	bool last = s == &t->sinks[t->nsinks - 1];

	if ((s->kind == SINK_DEAD) != last)
		return (bad(err, "sink", s->name, last ?
		    "the last sink must be the dead letters" :
		    "only the last sink is for dead letters"));
	if (sink_is_everywhere(s) != (s->exchange == -1))
		return (bad(err, "sink", s->name, s->exchange == -1 ?
		    "has no exchange" : "must not have an exchange"));
	if (sink_connects(s) && (s->host[0] == '\0' || s->port == 0))
		return (bad(err, "sink", s->name, "has no address"));
	if (s->kind == SINK_KAFKA && (s->kafka.brokers[0] == '\0' ||
	    s->topic[0] == '\0'))
		return (bad(err, "sink", s->name, "has no brokers or topic"));
	if (s->kind == SINK_FILE && s->path[0] == '\0')
		return (bad(err, "sink", s->name, "has no path"));
	return (0);
}

/*
 * The way of every source: it ends at the sinks, exchanges grow, and a state
 * is entered only where its key's owner is.
 */
static int
check_way(const struct topo *t, const struct topo_source *src,
    struct err *err)
{
	const struct topo_stage *s;
	bool at_owner = false;
	int last = -1, at = src->next;
	size_t steps = 0;

	for (; at != -1; at = s->next) {
		s = &t->stages[at];
		if (steps++ > t->nstages)
			return (bad(err, "source", src->name,
			    "its way runs in a circle"));
		if (stage_has_state(s) && !at_owner)
			return (bad(err, "stage", s->name,
			    "no exchange before its state"));
		if (s->kind == STAGE_KEY_BY || s->kind == STAGE_COLLECT)
			at_owner = false;
		if (s->exchange == -1)
			continue;
		at_owner = true;
		if (s->exchange <= last)
			return (bad(err, "stage", s->name,
			    "exchanges are not in order"));
		last = s->exchange;
	}
	return (0);
}

/* Either the messages of all sources get times of their own, each once and
 * before anything but stateless computations, or none do. */
static int
find_event_time(struct topo *t, struct topo_source *src, struct err *err)
{
	const struct topo_stage *s;
	bool early = true;
	int at;

	src->event_stage = -1;
	for (at = src->next; at != -1; at = s->next) {
		s = &t->stages[at];
		if (s->kind == STAGE_EVENT_TIME &&
		    (!early || src->event_stage != -1))
			return (bad(err, "stage", s->name, early ?
			    "a second time on one way" :
			    "only stateless steps may be before it"));
		if (s->kind == STAGE_EVENT_TIME)
			src->event_stage = at;
		early = early && (s->kind == STAGE_STEP ||
		    s->kind == STAGE_EVENT_TIME);
	}
	if (src != t->sources && (src->event_stage != -1) != t->event_time)
		return (bad(err, "source", src->name, "either all sources "
		    "have event times, or none"));
	t->event_time = src->event_stage != -1;
	return (0);
}

static int
check_event_time(struct topo *t, struct err *err)
{
	struct topo_stage *s;
	size_t i;

	for (i = 0; i < t->nsources; i++)
		if (find_event_time(t, &t->sources[i], err) == -1)
			return (-1);
	for (i = 0; i < t->nstages; i++) {
		s = &t->stages[i];
		if (s->kind == STAGE_RANGE)
			s->by_event = t->event_time;
		else if (s->by_event && !t->event_time)
			return (bad(err, "stage", s->name, "timers by event "
			    "time need messages that have one"));
	}
	return (0);
}

/* The sinks of late messages, and only these, stand together behind those that
 * get all outputs, before the dead letters. */
static int
check_late(const struct topo *t, struct err *err)
{
	int last = (int)t->nsinks - 1, first = last;
	const struct topo_stage *s;
	size_t i;

	for (i = 0; i < t->nstages; i++) {
		s = &t->stages[i];
		if (s->late == 0)
			continue;
		if (!t->event_time)
			return (bad(err, "stage", s->name, "messages without "
			    "event times are not late"));
		if (s->late - 1 < 1 || s->late - 1 >= last)
			return (bad(err, "stage", s->name,
			    "there is no such sink for its late messages"));
		if (s->late - 1 < first)
			first = s->late - 1;
	}
	for (; first < last; first++) {
		for (i = 0; i < t->nstages; i++)
			if (t->stages[i].late == first + 1)
				break;
		if (i == t->nstages)
			return (bad(err, "sink", t->sinks[first].name,
			    "is behind those of late messages"));
	}
	return (0);
}

static int
check_names(const struct topo *t, struct err *err)
{
	for (size_t i = 0; i < t->nstages; i++)
		for (size_t k = 0; k < i; k++)
			if (stage_has_state(&t->stages[i]) &&
			    stage_has_state(&t->stages[k]) &&
			    strcmp(t->stages[i].name, t->stages[k].name) == 0)
				return (bad(err, "stage", t->stages[i].name,
				    "two states have this name"));
	for (size_t i = 0; i < t->nsinks; i++)
		for (size_t k = 0; k < i; k++)
			if (strcmp(t->sinks[i].name, t->sinks[k].name) == 0)
				return (bad(err, "sink", t->sinks[i].name,
				    "two sinks have this name"));
	return (0);
}

/* Exchange e enters that stage or that sink; each number is taken once. */
static int
number_exchange(struct topo *t, int e, int stage, int sink)
{
	if (e == -1)
		return (0);
	if ((uint32_t)e >= t->nexchanges || t->exchange_stage[e] != -1 ||
	    t->exchange_sink[e] != -1)
		return (-1);
	t->exchange_stage[e] = stage;
	t->exchange_sink[e] = sink;
	return (0);
}

static int
number_exchanges(struct topo *t, struct err *err)
{
	int stages = 0;

	t->nexchanges = 0;
	for (size_t i = 0; i < t->nstages; i++)
		t->nexchanges += t->stages[i].exchange != -1;
	stages = (int)t->nexchanges;
	for (size_t i = 0; i < t->nsinks; i++)
		t->nexchanges += t->sinks[i].exchange != -1;
	t->exchange_stage = xcalloc(t->nexchanges, sizeof(int));
	t->exchange_sink = xcalloc(t->nexchanges, sizeof(int));
	for (uint32_t e = 0; e < t->nexchanges; e++)
		t->exchange_stage[e] = t->exchange_sink[e] = -1;
	/* After the hop a record is behind the stage that made it hop. */
	for (size_t i = 0; i < t->nstages; i++)
		if (t->stages[i].exchange >= stages || number_exchange(t,
		    t->stages[i].exchange, t->stages[i].next, -1) == -1)
			return (bad(err, "stage", t->stages[i].name,
			    "wrong number of its exchange"));
	for (size_t i = 0; i < t->nsinks; i++)
		if (number_exchange(t, t->sinks[i].exchange, -1,
		    (int)i) == -1)
			return (bad(err, "sink", t->sinks[i].name,
			    "wrong number of its exchange"));
	return (0);
}

static int
check_all(struct topo *t, struct err *err)
{
	size_t ends = 0;

	if (t->application[0] == '\0')
		return (err_set(err, ERR_CONFIG,
		    "the application has no name"));
	for (size_t i = 0; i < t->nsources; i++)
		if (check_source(t, &t->sources[i], err) == -1)
			return (-1);
	for (size_t i = 0; i < t->nstages; i++) {
		if (check_stage(t, &t->stages[i], err) == -1)
			return (-1);
		ends += t->stages[i].kind == STAGE_SINKS;
	}
	if (ends != 1)
		return (err_set(err, ERR_CONFIG,
		    "a topology has one stage that gives to the sinks"));
	for (size_t i = 0; i < t->nsinks; i++)
		if (check_sink(t, &t->sinks[i], err) == -1)
			return (-1);
	for (size_t i = 0; i < t->nsources; i++)
		if (check_way(t, &t->sources[i], err) == -1)
			return (-1);
	if (check_event_time(t, err) == -1 || check_late(t, err) == -1 ||
	    check_names(t, err) == -1)
		return (-1);
	return (number_exchanges(t, err));
}

int
topo_parse(struct topo *t, struct slice s, struct err *err)
{
	struct mp c;

	memset(t, 0, sizeof(*t));
	mp_init(&c, s);
	if (read_all(t, &c, err) == -1 || check_all(t, err) == -1) {
		topo_fini(t);
		return (-1);
	}
	return (0);
}

void
topo_fini(struct topo *t)
{
	for (size_t i = 0; i < t->nsources; i++) {
		free(t->sources[i].name);
		free(t->sources[i].host);
		free(t->sources[i].path);
		free(t->sources[i].key);
		free(t->sources[i].cookie);
		kafka_fini(&t->sources[i].kafka);
		for (size_t k = 0; k < t->sources[i].ntopics; k++)
			free(t->sources[i].topics[k]);
		free(t->sources[i].topics);
		free(t->sources[i].group);
		free(t->sources[i].start);
	}
	for (size_t i = 0; i < t->nstages; i++)
		free(t->stages[i].name);
	for (size_t i = 0; i < t->nsinks; i++) {
		free(t->sinks[i].name);
		free(t->sinks[i].host);
		free(t->sinks[i].path);
		free(t->sinks[i].cookie);
		kafka_fini(&t->sinks[i].kafka);
		free(t->sinks[i].topic);
	}
	free(t->application);
	free(t->version);
	free(t->sources);
	free(t->stages);
	free(t->sinks);
	free(t->exchange_stage);
	free(t->exchange_sink);
	memset(t, 0, sizeof(*t));
}

/*
 * For people.
 */

static void
print_place(struct buf *b, const char *host, uint32_t port, const char *path)
{
	if (host[0] != '\0')
		buf_addf(b, strchr(host, ':') != NULL ? " [%s]:%u" : " %s:%u",
		    host, port);
	if (path[0] != '\0')
		buf_addf(b, " %s", path);
}

void
topo_print(const struct topo *t, struct buf *b)
{
	buf_addf(b, "application \"%s\"", t->application);
	if (t->version != NULL && t->version[0] != '\0')
		buf_addf(b, " version \"%s\"", t->version);
	buf_addf(b, "\n");
	for (size_t i = 0; i < t->nsources; i++) {
		const struct topo_source *s = &t->sources[i];

		buf_addf(b, "source %zu \"%s\" %s", i, s->name,
		    source_kinds[s->kind]);
		print_place(b, s->host, s->port, s->path);
		for (size_t k = 0; k < s->ntopics; k++)
			buf_addf(b, " %s", s->topics[k]);
		buf_addf(b, " -> stage %d\n", s->next);
	}
	for (size_t i = 0; i < t->nstages; i++) {
		const struct topo_stage *s = &t->stages[i];

		buf_addf(b, "stage %zu \"%s\" %s%s", i, s->name,
		    stage_kinds[s->kind], s->multi ? " multi" : "");
		if (s->exchange != -1)
			buf_addf(b, " exchange %d", s->exchange);
		if (s->timeout_ns != 0)
			buf_addf(b, " timeout %gs",
			    (double)s->timeout_ns / 1e9);
		if (s->kind == STAGE_TIMED)
			buf_addf(b, " by %s time",
			    s->by_event ? "event" : "processing");
		if (s->kind == STAGE_EVENT_TIME)
			buf_addf(b, " lateness %gs", (double)s->lateness_ns /
			    1e9);
		if (s->idle_ns != 0)
			buf_addf(b, " idle %gs", (double)s->idle_ns / 1e9);
		if (s->late != 0)
			buf_addf(b, " late to sink %d", s->late - 1);
		if (s->policy != POLICY_DEFAULT)
			buf_addf(b, " on-error %s", policies[s->policy]);
		if (s->version != 0)
			buf_addf(b, " version %u", s->version);
		if (s->next == -1)
			buf_addf(b, " -> sinks\n");
		else
			buf_addf(b, " -> stage %d\n", s->next);
	}
	for (size_t i = 0; i < t->nsinks; i++) {
		const struct topo_sink *s = &t->sinks[i];

		buf_addf(b, "sink %zu \"%s\" %s", i, s->name,
		    sink_kinds[s->kind]);
		print_place(b, s->host, s->port, s->path);
		if (s->exchange != -1)
			buf_addf(b, " exchange %d", s->exchange);
		buf_addf(b, "\n");
	}
}
