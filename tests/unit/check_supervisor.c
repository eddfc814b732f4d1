/* supervisor/: what is decided without processes. */
#include <signal.h>
#include <string.h>

#include "supervisor/supervisor.h"
#include "tests/unit/unit.h"

/* As waitpid gives them. */
#define EXITED(code)	((code) << 8)
#define SIGNALED(sig)	(sig)

/* --- crash loop ---------------------------------------------------------- */

START_TEST(test_own_doing)
{
	static const int own[] = { SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE,
	    SIGSYS };
	static const int other[] = { SIGKILL, SIGTERM, SIGINT, SIGHUP };
	size_t i;

	for (i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		ck_assert(crash_own_doing(SIGNALED(own[i])));
	for (i = 0; i < sizeof(other) / sizeof(other[0]); i++)
		ck_assert(!crash_own_doing(SIGNALED(other[i])));
	ck_assert(crash_own_doing(EXITED(0)));
	ck_assert(crash_own_doing(EXITED(111)));
	ck_assert(crash_own_doing(SIGNALED(SIGSEGV) | 0x80));
}
END_TEST

START_TEST(test_crash_backoff)
{
	static const int64_t delay[] = { 100, 200, 400, 800, 1600, 3200, 6400,
	    10000, 10000, 10000 };
	struct crash_loop l = { 0 };
	size_t i;

	for (i = 0; i < sizeof(delay) / sizeof(delay[0]); i++)
		ck_assert_int_eq(crash_count(&l, true, false, 0, 11), delay[i]);
	ck_assert_int_eq(crash_count(&l, true, false, 0, 11), -1);
}
END_TEST

START_TEST(test_crash_limit_of_one)
{
	struct crash_loop l = { 0 };

	ck_assert_int_eq(crash_count(&l, true, false, 0, 1), -1);
}
END_TEST

START_TEST(test_kill_never_counts)
{
	struct crash_loop l = { 0 };
	int i;

	for (i = 0; i < 1000; i++)
		ck_assert_int_eq(crash_count(&l, false, false, 0, 1), 0);
	ck_assert_int_eq(l.deaths, 0);
	/* Nor does it excuse: between own deaths the count stays. */
	ck_assert_int_eq(crash_count(&l, true, false, 0, 3), 100);
	ck_assert_int_eq(crash_count(&l, false, false, 0, 3), 0);
	ck_assert_int_eq(crash_count(&l, true, false, 0, 3), 200);
	ck_assert_int_eq(crash_count(&l, true, false, 0, 3), -1);
}
END_TEST

START_TEST(test_charged_to_a_record)
{
	struct crash_loop l = { 0 };
	int i;

	/* Two for the record, two for its letter, and as many again. */
	for (i = 0; i < 8; i++)
		ck_assert_int_eq(crash_count(&l, true, true, 0, 2), 0);
	/* No record explains so many. */
	ck_assert_int_eq(crash_count(&l, true, true, 0, 2), 100);
	ck_assert_int_eq(crash_count(&l, true, true, 0, 2), -1);
	/* A record that was set aside is progress. */
	ck_assert_int_eq(crash_count(&l, true, true, 1, 2), 0);
	for (i = 0; i < 8; i++)
		ck_assert_int_eq(crash_count(&l, true, true, 1, 2), 0);
	ck_assert_int_eq(crash_count(&l, true, true, 1, 2), 100);
}
END_TEST

START_TEST(test_progress)
{
	struct crash_loop l = { 0 };

	ck_assert_int_eq(crash_count(&l, true, false, 0, 3), 100);
	ck_assert_int_eq(crash_count(&l, true, false, 10, 3), 0);
	ck_assert_int_eq(l.deaths, 0);
	/* A replay up to where it was before is none. */
	ck_assert_int_eq(crash_count(&l, true, false, 4, 3), 100);
	ck_assert_int_eq(crash_count(&l, true, false, 10, 3), 200);
	ck_assert_int_eq(crash_count(&l, true, false, 11, 3), 0);
	/* A kill after progress remembers the progress. */
	ck_assert_int_eq(crash_count(&l, false, false, 20, 3), 0);
	ck_assert_int_eq(crash_count(&l, true, false, 20, 3), 100);
}
END_TEST

/* --- drain --------------------------------------------------------------- */

static void
answer(struct drain *d, uint32_t worker, uint32_t round, int idle, int empty,
    uint64_t tail)
{
	struct msg_drained m = { round, (uint32_t)idle, tail,
	    (uint32_t)empty };

	drain_answer(d, worker, &m);
}

static void
round_of(struct drain *d, int idle, int empty, uint64_t tail0, uint64_t tail1)
{
	uint32_t r = drain_next(d);

	answer(d, 0, r, 1, empty, tail0);
	ck_assert(!drain_complete(d));
	answer(d, 1, r, idle, empty, tail1);
	ck_assert(drain_complete(d));
}

START_TEST(test_quiet_needs_two_rounds)
{
	struct drain d;

	drain_init(&d, 2);
	ck_assert(!drain_complete(&d));
	ck_assert_int_eq(drain_decide(&d, 0, 1000, false), DRAIN_WAIT);
	round_of(&d, 1, 1, 5, 6);
	ck_assert(!d.quiet);
	round_of(&d, 1, 1, 5, 6);
	ck_assert(d.quiet && d.empty);
	ck_assert_int_eq(drain_decide(&d, 0, 1000, false), DRAIN_FINISH);
	drain_fini(&d);
}
END_TEST

START_TEST(test_not_quiet)
{
	struct drain d;

	drain_init(&d, 2);
	round_of(&d, 1, 1, 5, 6);
	round_of(&d, 1, 1, 5, 7);		/* a journal grew */
	ck_assert(!d.quiet);
	round_of(&d, 0, 1, 5, 7);		/* somebody works */
	ck_assert(!d.quiet);
	round_of(&d, 1, 1, 5, 7);		/* was not idle before */
	ck_assert(!d.quiet);
	round_of(&d, 1, 0, 5, 7);
	ck_assert(d.quiet && !d.empty);
	round_of(&d, 0, 1, 5, 7);		/* no more */
	ck_assert(!d.quiet && !d.empty);
	drain_fini(&d);
}
END_TEST

START_TEST(test_old_answers_do_not_count)
{
	struct drain d;
	uint32_t r;

	drain_init(&d, 2);
	answer(&d, 0, 0, 1, 1, 0);
	r = drain_next(&d);
	answer(&d, 0, r, 1, 1, 0);
	answer(&d, 1, r - 1, 1, 1, 0);
	answer(&d, 1, r + 1, 1, 1, 0);
	answer(&d, 7, r, 1, 1, 0);
	ck_assert(!drain_complete(&d));
	/* A round that is not complete is none. */
	round_of(&d, 1, 1, 0, 0);
	ck_assert(!d.quiet);
	drain_fini(&d);
}
END_TEST

START_TEST(test_death_while_draining)
{
	struct drain d;

	drain_init(&d, 2);
	round_of(&d, 1, 1, 5, 6);
	round_of(&d, 1, 1, 5, 6);
	ck_assert(d.quiet);
	drain_forget(&d, 1);
	ck_assert(!d.quiet && !d.empty && !drain_complete(&d));
	answer(&d, 1, d.round, 1, 1, 6);	/* its next life */
	ck_assert(drain_complete(&d) && !d.quiet);
	round_of(&d, 1, 1, 5, 6);
	ck_assert(d.quiet);
	drain_forget(&d, 9);
	drain_fini(&d);
}
END_TEST

START_TEST(test_drain_times)
{
	struct drain d;

	drain_init(&d, 2);
	/* Not quiet: ten seconds more than sinks get. */
	ck_assert_int_eq(drain_decide(&d, 10999, 1000, false), DRAIN_WAIT);
	ck_assert_int_eq(drain_decide(&d, 11000, 1000, false), DRAIN_FINISH);
	ck_assert_int_eq(drain_decide(&d, 99000, 1000, true), DRAIN_WAIT);
	/* Quiet: sinks get their time. */
	round_of(&d, 1, 0, 0, 0);
	round_of(&d, 1, 0, 0, 0);
	ck_assert_int_eq(drain_decide(&d, 999, 1000, false), DRAIN_WAIT);
	ck_assert_int_eq(drain_decide(&d, 1000, 1000, false), DRAIN_FINISH);
	ck_assert_int_eq(drain_decide(&d, 0, 0, false), DRAIN_FINISH);
	ck_assert_int_eq(drain_decide(&d, 1000, 1000, true), DRAIN_FINISH);
	drain_fini(&d);
}
END_TEST

/* --- compatible topologies ----------------------------------------------- */

#define STATES_MAX	4

static void
states(struct topo *t, const char *const *names)
{
	size_t i;

	memset(t, 0, sizeof(*t));
	t->application = strdup("a");
	t->stages = calloc(2 * STATES_MAX, sizeof(*t->stages));
	for (i = 0; names[i] != NULL; i++) {
		t->stages[t->nstages].name = strdup(names[i]);
		t->stages[t->nstages].exchange = -1;
		t->stages[t->nstages].next = -1;
		t->stages[t->nstages++].kind = STAGE_STATE;
		/* A stage without state of any name does not matter. */
		t->stages[t->nstages].name = strdup("step");
		t->stages[t->nstages].exchange = -1;
		t->stages[t->nstages].next = -1;
		t->stages[t->nstages++].kind = STAGE_STEP;
	}
}

/* "from" or "from=to", separated by spaces. */
static void
options(struct options *o, const char *text)
{
	char *copy = strdup(text), *save = NULL, *word, *equal;

	memset(o, 0, sizeof(*o));
	o->renames = calloc(STATES_MAX, sizeof(*o->renames));
	for (word = strtok_r(copy, " ", &save); word != NULL;
	    word = strtok_r(NULL, " ", &save)) {
		equal = strchr(word, '=');
		if (equal != NULL)
			*equal = '\0';
		o->renames[o->nrenames].from = strdup(word);
		o->renames[o->nrenames++].to = equal == NULL ? NULL :
		    strdup(equal + 1);
	}
	free(copy);
}

static int
compatible(const char *const *old, const char *const *now, const char *text,
    struct err *err)
{
	struct topo a, b;
	struct options o;
	size_t i;
	int r;

	states(&a, old);
	states(&b, now);
	options(&o, text);
	err->text[0] = '\0';
	r = catalog_compatible(&a, &b, &o, err);
	topo_fini(&a);
	topo_fini(&b);
	for (i = 0; i < o.nrenames; i++) {
		free(o.renames[i].from);
		free(o.renames[i].to);
	}
	free(o.renames);
	return (r);
}

#define NAMES(...)	(const char *const []){ __VA_ARGS__ __VA_OPT__(,) NULL }

START_TEST(test_compatible)
{
	struct err e;

	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("A", "B"), "",
	    &e), 0);
	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("C", "B", "A"),
	    "", &e), 0);
	ck_assert_int_eq(compatible(NAMES(), NAMES("A"), "", &e), 0);
	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("A", "C"), "B=C",
	    &e), 0);
	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("A"), "B", &e),
	    0);
	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("A", "B"),
	    "A=B B=A", &e), 0);
	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("B"), "A=B B",
	    &e), 0);
	/* Its state may also be dropped while the step stays. */
	ck_assert_int_eq(compatible(NAMES("A"), NAMES("A"), "A", &e), 0);
}
END_TEST

START_TEST(test_incompatible)
{
	struct err e;

	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("A", "C"), "",
	    &e), -1);
	ck_assert_int_eq(e.code, ERR_REFUSED);
	ck_assert_ptr_nonnull(strstr(e.text, "--rename-state"));
	ck_assert_ptr_nonnull(strstr(e.text, "--drop-state"));
	ck_assert_ptr_nonnull(strstr(e.text, "\"C\""));
	ck_assert_ptr_nonnull(strstr(e.text, "this version is"));
	/* "step" exists, but has no state. */
	ck_assert_int_eq(compatible(NAMES("A"), NAMES("B"), "A=step", &e),
	    -1);
	ck_assert_int_eq(compatible(NAMES("A"), NAMES("B"), "A=C", &e), -1);
	ck_assert_int_eq(compatible(NAMES("A"), NAMES("A"), "B", &e), -1);
	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("B"), "A=B", &e),
	    -1);
	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("C"), "A=C B=C",
	    &e), -1);
	ck_assert_int_eq(compatible(NAMES("A", "B"), NAMES("C", "D"),
	    "A=C A=D", &e), -1);
}
END_TEST

/* --- names in the store -------------------------------------------------- */

START_TEST(test_names)
{
	struct held h = { .id = 4294967297, .worker = 3, .index = 1 }, g;
	char name[HOLD_NAME];

	hold_name(&h, name);
	ck_assert_str_eq(name, "conn.4294967297.3.1");
	ck_assert_int_eq(hold_parse(name, &g), 0);
	ck_assert(!g.is_sink && g.id == h.id && g.worker == 3 &&
	    g.index == 1 && g.fd == -1);
	h.is_sink = true;
	h.baseline = UINT64_MAX;
	hold_name(&h, name);
	ck_assert_str_eq(name, "sink.4294967297.3.1.18446744073709551615");
	ck_assert_int_eq(hold_parse(name, &g), 0);
	ck_assert(g.is_sink && g.baseline == UINT64_MAX);
}
END_TEST

START_TEST(test_wrong_names)
{
	static const char *const wrong[] = { "", "c", "conn", "conn.", "sink",
	    "conn.1", "conn.1.2", "conn.1.2.", "conn.1.2.3.", "conn.1.2.3.4",
	    "conn.1.2.3x", "conn.-1.2.3", "conn.+1.2.3", "conn. 1.2.3",
	    "conn.01.2.3", "conn.0.2.3", "conn.1.4294967296.3",
	    "conn.18446744073709551616.2.3", "conn..2.3", "connx1.2.3",
	    "sink.1.2.3", "sink.1.2.3.", "sink.1.2.3.18446744073709551616",
	    "sink.1.2.3.4.5", "listen.0", "stored" };
	struct held h;
	size_t i;

	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		ck_assert_msg(hold_parse(wrong[i], &h) == -1, "%s",
		    wrong[i]);
	ck_assert_int_eq(hold_parse("conn.1.0.0", &h), 0);
}
END_TEST

/* --- JSON ---------------------------------------------------------------- */

static void
json_is(const char *text, size_t len, const char *wanted)
{
	struct slice s = unit_exact(text, len);
	struct buf b = { 0 };

	ctl_json_str(&b, s);
	ck_assert_str_eq(buf_str(&b), wanted);
	buf_fini(&b);
	unit_free(s);
}

#define JSON_IS(text, wanted)	json_is(text, sizeof(text) - 1, wanted)

START_TEST(test_json)
{
	JSON_IS("", "\"\"");
	JSON_IS("plain text", "\"plain text\"");
	JSON_IS("a\"b\\c", "\"a\\\"b\\\\c\"");
	JSON_IS("a\nb\tc\0d\x7f", "\"a\\u000ab\\u0009c\\u0000d\\u007f\"");
	JSON_IS("\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x8b",
	    "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\x8b\"");
	/* Cut off, overlong, surrogate, beyond the last, stray. */
	JSON_IS("\xe2\x82", "\"\\ufffd\\ufffd\"");
	JSON_IS("\xc0\x80", "\"\\ufffd\\ufffd\"");
	JSON_IS("\xe0\x80\x80", "\"\\ufffd\\ufffd\\ufffd\"");
	JSON_IS("\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"");
	JSON_IS("\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
	JSON_IS("a\xff" "b", "\"a\\ufffdb\"");
}
END_TEST

/* --- external channel ---------------------------------------------------- */

static long
cut(const void *p, size_t n, unsigned int *id, size_t *payload)
{
	struct slice s = unit_exact(p, n), body = slice_of("", 0);
	long r = external_frame(s, id, &body);

	*payload = body.len;
	if (r > 0) {
		ck_assert_uint_le((size_t)r, n);
		ck_assert_ptr_eq(body.data, s.data + EXTERNAL_HEAD);
		ck_assert_uint_eq(body.len, (size_t)r - EXTERNAL_HEAD);
	}
	unit_free(s);
	return (r);
}

START_TEST(test_external_frame)
{
	static const uint8_t whole[] = { 0, 0, 0, 5, 0x12, 0x34, 'a', 'b',
	    'c', 'x' };
	static const uint8_t most[] = { 0, 1, 0, 0 }, over[] = { 0, 1, 0, 1 },
	    none[] = { 0, 0, 0, 1 };
	unsigned int id;
	size_t payload, i;

	for (i = 0; i < 9; i++)
		ck_assert_int_eq(cut(whole, i, &id, &payload), 0);
	ck_assert_int_eq(cut(whole, 9, &id, &payload), 9);
	ck_assert_int_eq(cut(whole, 10, &id, &payload), 9);
	ck_assert_uint_eq(id, 0x1234);
	ck_assert_uint_eq(payload, 3);
	/* Too large is known before the rest has come. */
	ck_assert_int_eq(cut(most, 4, &id, &payload), 0);
	ck_assert_int_eq(cut(over, 4, &id, &payload), -1);
	ck_assert_int_eq(cut(none, 4, &id, &payload), -1);
}
END_TEST

START_TEST(test_external_noise)
{
	uint64_t state = 5;
	uint8_t bytes[40];
	unsigned int id;
	size_t payload, n;
	int k;

	for (k = 0; k < 200000; k++) {
		for (n = 0; n < sizeof(bytes); n++)
			bytes[n] = (uint8_t)unit_random(&state);
		bytes[0] = bytes[1] = bytes[2] = 0;
		bytes[3] %= 48;
		n = unit_random(&state) % (sizeof(bytes) + 1);
		(void)cut(bytes, n, &id, &payload);
	}
}
END_TEST

static int
asks(const void *p, size_t n)
{
	struct slice s = unit_exact(p, n);
	int r = extquery_shrink(s);

	unit_free(s);
	return (r);
}

START_TEST(test_shrink_json)
{
	static const struct { const char *text; int wanted; } rows[] = {
		{ "{\"query\":true,\"node_names\":[],\"node_count\":0}", 1 },
		{ " { \"node_count\" : 1 , \"query\" : false } ", 0 },
		{ "{}", 0 }, { "{\"other\":{\"query\":true}}", 0 },
		{ "{\"node_names\":[\"a\",\"b\\\"\"],\"query\":true}",
		    1 },
		{ "{\"x\":-1.5e+3,\"y\":null,\"query\":true}", 1 },
		{ "", -1 }, { " ", -1 }, { "[]", -1 }, { "true", -1 },
		{ "{", -1 }, { "}", -1 }, { "{\"query\"", -1 },
		{ "{\"query\":", -1 }, { "{\"query\":t}", -1 },
		{ "{\"query\":truex}", -1 }, { "{\"query\":true} x", -1 },
		{ "{\"query\":true,}", -1 }, { "{\"a\":\"b}", -1 },
		{ "{\"a\":\"\\", -1 }, { "{\"a\":[1,]}", -1 },
		{ "{1:2}", -1 }, { "{\"a\" 1}", -1 }
	};
	char deep[256];
	size_t i;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		ck_assert_msg(asks(rows[i].text, strlen(rows[i].text)) ==
		    rows[i].wanted, "%s", rows[i].text);
	memset(deep, '[', sizeof(deep));
	memcpy(deep, "{\"a\":", 5);
	ck_assert_int_eq(asks(deep, sizeof(deep)), -1);
}
END_TEST

START_TEST(test_shrink_noise)
{
	static const char good[] = "{\"query\":true,\"node_names\":[\"a\"],"
	    "\"node_count\":-10,\"x\":{\"y\":[null,\"\\\"\"]}}";
	static const char letters[] = "{}[]\",:\\truefalsn0-+.e ";
	char text[sizeof(good) - 1];
	uint64_t state = 7;
	int k, i;

	for (k = 0; k < 200000; k++) {
		memcpy(text, good, sizeof(text));
		for (i = (int)(unit_random(&state) % 4); i >= 0; i--)
			text[unit_random(&state) % sizeof(text)] = letters[
			    unit_random(&state) % sizeof(letters)];
		(void)asks(text, unit_random(&state) % (sizeof(text) + 1));
	}
}
END_TEST

START_TEST(test_addresses)
{
	static const struct { const char *text, *host; uint32_t port; } rows[]
	    = { { "127.0.0.1:5050", "127.0.0.1", 5050 },
		{ "localhost:1", "localhost", 1 }, { ":65535", "", 65535 },
		{ "[::1]:5050", "::1", 5050 }, { "::1:5050", "::1", 5050 } };
	static const char *const wrong[] = { "", "5050", "host", "host:",
	    "host:0", "host:65536", "host:99999999999999999999", "host:1x",
	    "host:-1", "host: 1", "host:http" };
	struct err err;
	uint32_t port;
	char *host;
	size_t i;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		ck_assert_int_eq(address_parse(rows[i].text, &host, &port,
		    &err), 0);
		ck_assert_str_eq(host, rows[i].host);
		ck_assert_uint_eq(port, rows[i].port);
		free(host);
	}
	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		ck_assert_msg(address_parse(wrong[i], &host, &port, &err) ==
		    -1, "%s", wrong[i]);
}
END_TEST

/* --- metrics ------------------------------------------------------------- */

static uint64_t
number_at(const struct buf *b, size_t at, int bytes)
{
	uint64_t v = 0;

	ck_assert_uint_le(at + (size_t)bytes, b->len);
	while (bytes-- > 0)
		v = v << 8 | b->data[at++];
	return (v);
}

static size_t
text_at(const struct buf *b, size_t at, const char *wanted)
{
	size_t n = (size_t)number_at(b, at, 4);

	ck_assert_uint_eq(n, strlen(wanted));
	ck_assert(memcmp(b->data + at + 4, wanted, n) == 0);
	return (at + 4 + n);
}

START_TEST(test_metrics_frame)
{
	struct metrics_period p = { .application = "app", .worker = "w",
	    .pipeline = "pipe", .category = "cat", .id = 7, .period_ns = 11,
	    .end_ns = 13 };
	struct buf b = { 0 };
	size_t at;
	int i;

	p.bin[3] = 5;
	p.bin[10] = 1;
	metrics_put(&b, &p);
	ck_assert_uint_eq(number_at(&b, 0, 4), b.len - 4);
	ck_assert_uint_eq(b.data[4], 3);
	at = text_at(&b, 5, "metrics");
	at = text_at(&b, at, "metrics:app");
	ck_assert_uint_eq(number_at(&b, at, 4), b.len - at - 4);
	ck_assert_uint_eq(number_at(&b, at + 4, 4), b.len - at - 8);
	at = text_at(&b, at + 8, "pipe");
	at = text_at(&b, at, "cat");
	at = text_at(&b, at, "w");
	at = text_at(&b, at, "pipe");
	ck_assert_uint_eq(number_at(&b, at, 2), 7);
	at += 2;
	for (i = 0; i < STATS_BINS; i++, at += 8)
		ck_assert_uint_eq(number_at(&b, at, 8), i == 3 ? 5 : i == 10);
	ck_assert_uint_eq(number_at(&b, at, 8), 4);
	ck_assert_uint_eq(number_at(&b, at + 8, 8), 1023);
	ck_assert_uint_eq(number_at(&b, at + 16, 8), 11);
	ck_assert_uint_eq(number_at(&b, at + 24, 8), 13);
	ck_assert_uint_eq(at + 32, b.len);
	/* Nothing, and the longest. */
	memset(p.bin, 0, sizeof(p.bin));
	buf_clear(&b);
	metrics_put(&b, &p);
	ck_assert_uint_eq(number_at(&b, at, 8), 0);
	ck_assert_uint_eq(number_at(&b, at + 8, 8), 0);
	p.bin[64] = 1;
	buf_clear(&b);
	metrics_put(&b, &p);
	ck_assert_uint_eq(number_at(&b, at, 8), 1ULL << 63);
	ck_assert_uint_eq(number_at(&b, at + 8, 8), UINT64_MAX);
	buf_fini(&b);
}
END_TEST

/* --- limits -------------------------------------------------------------- */

START_TEST(test_fds)
{
	uint64_t one = place_fds(1, 1, 1, 1024);

	/* The usual limit of 1024 is too low for 1024 connections. */
	ck_assert_uint_gt(one, 1024);
	ck_assert_uint_lt(one, 1300);
	ck_assert_uint_gt(place_fds(256, 0, 0, 0), 65000);
	ck_assert_uint_ge(place_fds(1, 2, 0, 1000) - place_fds(1, 1, 0, 1000),
	    1000);
}
END_TEST

START_TEST(test_tcp_counters)
{
	ck_assert(tcpcheck_exact());
}
END_TEST

UNIT_MAIN("supervisor", test_own_doing, test_crash_backoff,
    test_crash_limit_of_one, test_kill_never_counts,
    test_charged_to_a_record, test_progress,
    test_quiet_needs_two_rounds, test_not_quiet,
    test_old_answers_do_not_count, test_death_while_draining,
    test_drain_times, test_compatible, test_incompatible, test_names,
    test_wrong_names, test_json, test_external_frame, test_external_noise,
    test_shrink_json, test_shrink_noise, test_addresses, test_metrics_frame,
    test_fds,
    test_tcp_counters)
