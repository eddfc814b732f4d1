/* common/topo.c: a good topology, and it with one thing wrong each time. */
#include <stdio.h>
#include <string.h>

#include "common/mp.h"
#include "common/topo.h"
#include "tests/unit/unit.h"

/* One value of the wire form. */
struct value {
	enum { S, I, B, K } type;	/* str, int, bool, bin */
	const char	*str;
	int64_t		 num;
};
#define S(x)	{ S, x, 0 }
#define I(x)	{ I, NULL, x }
#define B(x)	{ B, NULL, x }
#define K(x)	{ K, x, 0 }

/* numbers of the fields, as in topo.h */
enum { SRC_NAME, SRC_KIND, SRC_NEXT, SRC_FN, SRC_FRAMING, SRC_HLEN,
	SRC_HFORMAT, SRC_MAX, SRC_HOST, SRC_PORT, SRC_PATH, SRC_KEY,
	SRC_PARALLEL };
enum { STG_NAME, STG_KIND, STG_NEXT, STG_FN, STG_EXCHANGE, STG_MULTI,
	STG_POLICY, STG_VERSION };
enum { SNK_NAME, SNK_KIND, SNK_FN, SNK_HOST, SNK_PORT, SNK_PATH,
	SNK_EXCHANGE, SNK_POLICY };

struct wire {
	struct value	magic, version, application;
	struct value	source[3][13];
	struct value	stage[7][8];
	struct value	sink[4][8];
	uint32_t	nsources, nstages, nsinks;
};

/*
 *  lines -> split -> key_by(0) -> count -> exchange? no:
 *  gen -> key ------^            collect(1) -> total -> sinks
 */
static const struct wire good = {
	S("wallaroo-topology"), I(1), S("Word Count"),
	{
		{ S("words"), S("tcp"), I(0), I(0), S("header"), I(4),
		    S(">I"), I(1000), S("127.0.0.1"), I(7010), S(""),
		    K("\001\002"), I(10) },
		{ S("numbers"), S("gen"), I(1), I(1), S("none"), I(0), S(""),
		    I(0), S(""), I(0), S(""), K(""), I(1) },
		{ S("file"), S("file"), I(0), I(-1), S("lines"), I(0), S(""),
		    I(1000), S(""), I(0), S("/etc/motd"), K("x"), I(1) },
	},
	{
		{ S("split"), S("step"), I(1), I(2), I(-1), B(1), S("skip"),
		    I(0) },
		{ S("key"), S("key_by"), I(2), I(3), I(0), B(0),
		    S("default"), I(0) },
		{ S("count"), S("state"), I(3), I(4), I(-1), B(0), S("fail"),
		    I(2) },
		{ S("all"), S("collect"), I(4), I(-1), I(-1), B(0),
		    S("default"), I(0) },
		{ S("hop"), S("exchange"), I(5), I(-1), I(1), B(0),
		    S("default"), I(0) },
		{ S("total"), S("state"), I(6), I(5), I(-1), B(1),
		    S("dead-letter"), I(0) },
		{ S("out"), S("sinks"), I(-1), I(-1), I(-1), B(0),
		    S("default"), I(0) },
	},
	{
		{ S("t"), S("tcp"), I(6), S("::1"), I(7002), S(""), I(-1),
		    S("default") },
		{ S("f"), S("file"), I(7), S(""), I(0), S("/out"), I(2),
		    S("fail") },
		{ S("o"), S("stdout"), I(-1), S(""), I(0), S(""), I(3),
		    S("skip") },
		{ S("dead-letters"), S("dead-letter"), I(-1), S(""), I(0),
		    S(""), I(4), S("fail") },
	},
	3, 7, 4
};

static void
put_value(struct buf *b, const struct value *v)
{
	switch (v->type) {
	case S:
		mp_put_str(b, v->str);
		break;
	case I:
		mp_put_int(b, v->num);
		break;
	case B:
		mp_put_bool(b, v->num != 0);
		break;
	case K:
		mp_put_bin(b, v->str, strlen(v->str));
		break;
	}
}

static void
put_rows(struct buf *b, const struct value *v, uint32_t rows, uint32_t cols)
{
	mp_put_array(b, rows);
	for (uint32_t i = 0; i < rows; i++) {
		mp_put_array(b, cols);
		for (uint32_t k = 0; k < cols; k++)
			put_value(b, &v[i * cols + k]);
	}
}

static struct buf
encode(const struct wire *w)
{
	struct buf b;

	buf_init(&b);
	mp_put_array(&b, 6);
	put_value(&b, &w->magic);
	put_value(&b, &w->version);
	put_value(&b, &w->application);
	put_rows(&b, &w->source[0][0], w->nsources, 13);
	put_rows(&b, &w->stage[0][0], w->nstages, 8);
	put_rows(&b, &w->sink[0][0], w->nsinks, 8);
	return (b);
}

static int
parse(const struct wire *w, struct topo *t, struct err *err)
{
	struct buf b = encode(w);
	int r;

	err->code = ERR_NONE;
	err->text[0] = '\0';
	r = topo_parse(t, buf_slice(&b), err);
	buf_fini(&b);
	return (r);
}

START_TEST(test_good)
{
	struct topo t;
	struct err err;
	struct buf b;

	ck_assert_msg(parse(&good, &t, &err) == 0, "%s", err.text);
	ck_assert_str_eq(t.application, "Word Count");
	ck_assert_uint_eq(t.nsources, 3);
	ck_assert_uint_eq(t.nstages, 7);
	ck_assert_uint_eq(t.nsinks, 4);

	ck_assert_int_eq(t.sources[0].kind, SOURCE_TCP);
	ck_assert_int_eq(t.sources[0].framing, FRAMING_HEADER);
	ck_assert_uint_eq(t.sources[0].header_length, 4);
	ck_assert(t.sources[0].header_big);
	ck_assert(!t.sources[0].header_signed);
	ck_assert_uint_eq(t.sources[0].max_size, 1000);
	ck_assert_str_eq(t.sources[0].host, "127.0.0.1");
	ck_assert_uint_eq(t.sources[0].port, 7010);
	ck_assert_uint_eq(t.sources[0].key_len, 2);
	ck_assert_mem_eq(t.sources[0].key, "\001\002", 2);
	ck_assert_uint_eq(t.sources[0].parallelism, 10);
	ck_assert_int_eq(t.sources[1].kind, SOURCE_GEN);
	ck_assert_int_eq(t.sources[1].next, 1);
	ck_assert_int_eq(t.sources[1].fn, 1);
	ck_assert_int_eq(t.sources[2].fn, -1);
	ck_assert_str_eq(t.sources[2].path, "/etc/motd");

	ck_assert_int_eq(t.stages[0].kind, STAGE_STEP);
	ck_assert(t.stages[0].multi);
	ck_assert_int_eq(t.stages[0].policy, POLICY_SKIP);
	ck_assert_int_eq(t.stages[2].kind, STAGE_STATE);
	ck_assert_uint_eq(t.stages[2].version, 2);
	ck_assert_int_eq(t.stages[5].policy, POLICY_DEAD_LETTER);
	ck_assert_int_eq(t.stages[6].kind, STAGE_SINKS);
	ck_assert_int_eq(t.stages[6].next, -1);

	ck_assert_int_eq(t.sinks[0].kind, SINK_TCP);
	ck_assert_int_eq(t.sinks[3].kind, SINK_DEAD);
	ck_assert_uint_eq(t.nexchanges, 5);
	/* where a record goes on after the hop */
	ck_assert_int_eq(t.exchange_stage[0], 2);
	ck_assert_int_eq(t.exchange_stage[1], 5);
	ck_assert_int_eq(t.exchange_sink[0], -1);
	for (int e = 2; e < 5; e++) {
		ck_assert_int_eq(t.exchange_stage[e], -1);
		ck_assert_int_eq(t.exchange_sink[e], e - 1);
	}

	buf_init(&b);
	topo_print(&t, &b);
	ck_assert_ptr_nonnull(strstr(buf_str(&b), "application \"Word Count\"\n"
	    "source 0 \"words\" tcp 127.0.0.1:7010 -> stage 0\n"));
	ck_assert_ptr_nonnull(strstr(buf_str(&b), "stage 5 \"total\" state "
	    "multi on-error dead-letter -> stage 6\n"));
	ck_assert_ptr_nonnull(strstr(buf_str(&b),
	    "stage 2 \"count\" state on-error fail version 2 -> stage 3\n"));
	ck_assert_ptr_nonnull(strstr(buf_str(&b), "sink 0 \"t\" tcp "
	    "[::1]:7002\nsink 1 \"f\" file /out exchange 2\n"));
	buf_fini(&b);
	topo_fini(&t);
	topo_fini(&t);		/* harmless */
}
END_TEST

/* A source that connectors feed has three more fields. */
static int
parse_connector(const struct value row[16], uint32_t cols, struct topo *t,
    struct err *err)
{
	struct buf b = { 0 };
	int r;

	mp_put_array(&b, 6);
	put_value(&b, &good.magic);
	put_value(&b, &good.version);
	put_value(&b, &good.application);
	put_rows(&b, row, 1, cols);
	put_rows(&b, &good.stage[0][0], good.nstages, 8);
	put_rows(&b, &good.sink[0][0], good.nsinks, 8);
	r = topo_parse(t, buf_slice(&b), err);
	buf_fini(&b);
	return (r);
}

START_TEST(test_connector)
{
	static const struct value row[16] = { S("feed"), S("connector"), I(0),
	    I(0), S("connector"), I(4), S(""), I(1000), S("::1"), I(7100),
	    S(""), K(""), I(100), S("secret"), I(10), I(9) };
	struct value other[16];
	struct buf b = { 0 };
	struct topo t;
	struct err err;

	ck_assert_int_eq(parse_connector(row, 16, &t, &err), 0);
	ck_assert_int_eq(t.sources[0].kind, SOURCE_CONNECTOR);
	ck_assert_int_eq(t.sources[0].framing, FRAMING_CONNECTOR);
	ck_assert(t.sources[0].header_big);
	ck_assert_str_eq(t.sources[0].cookie, "secret");
	ck_assert_uint_eq(t.sources[0].max_credits, 10);
	ck_assert_uint_eq(t.sources[0].refill_credits, 9);
	ck_assert(source_listens(&t.sources[0]));
	topo_print(&t, &b);
	ck_assert_ptr_nonnull(strstr(buf_str(&b), "connector [::1]:7100"));
	ck_assert_ptr_null(strstr(buf_str(&b), "secret"));
	buf_fini(&b);
	topo_fini(&t);
	ck_assert_int_eq(parse_connector(row, 13, &t, &err), -1);
	ck_assert_int_eq(parse_connector(row, 15, &t, &err), -1);
	memcpy(other, row, sizeof(row));
	other[15] = (struct value)I(10);
	ck_assert_int_eq(parse_connector(other, 16, &t, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "less than max_credits"));
	memcpy(other, row, sizeof(row));
	other[SRC_FRAMING] = (struct value)S("lines");
	ck_assert_int_eq(parse_connector(other, 16, &t, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "framing of its own"));
	memcpy(other, row, sizeof(row));
	other[SRC_HLEN] = (struct value)I(5);
	ck_assert_int_eq(parse_connector(other, 16, &t, &err), -1);
	memcpy(other, row, sizeof(row));
	other[SRC_KIND] = (struct value)S("tcp");
	ck_assert_int_eq(parse_connector(other, 13, &t, &err), -1);
	memcpy(other, row, sizeof(row));
	other[SRC_HOST] = (struct value)S("");
	ck_assert_int_eq(parse_connector(other, 16, &t, &err), -1);
}
END_TEST

static int
parse_kafka(const struct value *row, const char *from, uint32_t topics,
    const char *group, struct topo *t, struct err *err)
{
	struct buf b = { 0 };
	uint32_t i;
	int r;

	mp_put_array(&b, 6);
	put_value(&b, &good.magic);
	put_value(&b, &good.version);
	put_value(&b, &good.application);
	mp_put_array(&b, 1);
	mp_put_array(&b, 19);
	for (i = 0; i < 13; i++)
		put_value(&b, &row[i]);
	mp_put_str(&b, "one:9092,two:9092");
	mp_put_array(&b, 2);
	for (i = 0; i < 2; i++) {
		mp_put_array(&b, 3);
		mp_put_str(&b, i == 0 ? "sasl.username" : "sasl.password");
		mp_put_str(&b, i == 0 ? "value" : from);
		mp_put_str(&b, i == 0 ? "me" : "/etc/password");
	}
	mp_put_array(&b, topics);
	for (i = 0; i < topics; i++)
		mp_put_str(&b, i == 0 ? "orders" : "^more-");
	mp_put_str(&b, group);
	mp_put_str(&b, "latest");
	mp_put_bool(&b, true);
	put_rows(&b, &good.stage[0][0], good.nstages, 8);
	put_rows(&b, &good.sink[0][0], good.nsinks, 8);
	r = topo_parse(t, buf_slice(&b), err);
	buf_fini(&b);
	return (r);
}

START_TEST(test_kafka)
{
	static const struct value row[13] = { S("in"), S("kafka"), I(0),
	    I(0), S("kafka"), I(4), S(""), I(1000), S(""), I(0), S(""),
	    K(""), I(1) };
	struct value other[13];
	struct buf b = { 0 };
	struct topo t;
	struct err err;

	ck_assert_int_eq(parse_kafka(row, "file", 2, "g", &t, &err), 0);
	ck_assert_int_eq(t.sources[0].kind, SOURCE_KAFKA);
	ck_assert_str_eq(t.sources[0].kafka.brokers, "one:9092,two:9092");
	ck_assert_uint_eq(t.sources[0].kafka.nsettings, 2);
	ck_assert_int_eq(t.sources[0].kafka.settings[0].from, SETTING_VALUE);
	ck_assert_int_eq(t.sources[0].kafka.settings[1].from, SETTING_FILE);
	ck_assert_str_eq(t.sources[0].kafka.settings[1].text,
	    "/etc/password");
	ck_assert_uint_eq(t.sources[0].ntopics, 2);
	ck_assert_str_eq(t.sources[0].topics[1], "^more-");
	ck_assert_str_eq(t.sources[0].group, "g");
	ck_assert_str_eq(t.sources[0].start, "latest");
	ck_assert(t.sources[0].whole && t.sources[0].header_big);
	ck_assert(!source_listens(&t.sources[0]));
	topo_print(&t, &b);
	ck_assert_ptr_nonnull(strstr(buf_str(&b), "kafka orders ^more- ->"));
	buf_fini(&b);
	topo_fini(&t);
	ck_assert_int_eq(parse_kafka(row, "mind", 2, "g", &t, &err), -1);
	ck_assert_int_eq(parse_kafka(row, "env", 0, "g", &t, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "has no topic"));
	ck_assert_int_eq(parse_kafka(row, "env", 1, "", &t, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "has no group"));
	memcpy(other, row, sizeof(row));
	other[SRC_FRAMING] = (struct value)S("lines");
	ck_assert_int_eq(parse_kafka(other, "env", 1, "g", &t, &err), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "framing of its own"));
}
END_TEST

/* And a sink has its cookie. */
START_TEST(test_connector_sink)
{
	struct value row[2][9] = {
		{ S("c"), S("connector"), I(6), S("::1"), I(7200), S(""),
		    I(-1), S("default"), S("secret") } };
	struct wire w = good;
	struct buf b = { 0 };
	struct topo t;
	struct err err;
	int i;

	w.nsinks = 1;
	memcpy(w.sink[0], good.sink[3], sizeof(w.sink[0]));
	w.sink[0][SNK_EXCHANGE] = (struct value)I(2);
	for (i = 0; i < 3; i++) {
		buf_clear(&b);
		mp_put_array(&b, 6);
		put_value(&b, &good.magic);
		put_value(&b, &good.version);
		put_value(&b, &good.application);
		put_rows(&b, &good.source[0][0], good.nsources, 13);
		put_rows(&b, &good.stage[0][0], good.nstages, 8);
		mp_put_array(&b, 2);
		if (i == 2)
			row[0][SNK_EXCHANGE] = (struct value)I(2);
		mp_put_array(&b, i == 1 ? 8 : 9);
		for (int k = 0; k < (i == 1 ? 8 : 9); k++)
			put_value(&b, &row[0][k]);
		mp_put_array(&b, 8);
		for (int k = 0; k < 8; k++)
			put_value(&b, &w.sink[0][k]);
		ck_assert_int_eq(topo_parse(&t, buf_slice(&b), &err), i == 0 ?
		    0 : -1);
		if (i > 0)
			continue;
		ck_assert_int_eq(t.sinks[0].kind, SINK_CONNECTOR);
		ck_assert_str_eq(t.sinks[0].cookie, "secret");
		ck_assert(sink_connects(&t.sinks[0]));
		ck_assert(!sink_connects(&t.sinks[1]));
		topo_fini(&t);
	}
	buf_fini(&b);
}
END_TEST

START_TEST(test_truncated)
{
	struct buf b = encode(&good);
	struct topo t;
	struct err err;

	for (size_t n = 0; n < b.len; n++) {
		struct slice s = unit_exact(b.data, n);

		ck_assert_int_eq(topo_parse(&t, s, &err), -1);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		unit_free(s);
	}
	buf_add(&b, "\x01", 1);
	ck_assert_int_eq(topo_parse(&t, buf_slice(&b), &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	buf_fini(&b);
}
END_TEST

/* Every field of every row gets a value of another type. */
START_TEST(test_wrong_type)
{
	const struct value *end = &good.sink[3][8];
	struct wire w = good;
	struct topo t;
	struct err err;
	int n = 0;

	for (struct value *v = &w.magic; v < (const struct value *)
	    ((uintptr_t)&w + ((uintptr_t)end - (uintptr_t)&good)); v++) {
		struct value old = *v;

		*v = (struct value){ old.type == B ? S : B, "", 0 };
		ck_assert_msg(parse(&w, &t, &err) == -1, "value %td",
		    v - &w.magic);
		ck_assert_int_eq(err.code, ERR_CORRUPT);
		*v = old;
		n++;
	}
	ck_assert_int_eq(n, 3 + 39 + 56 + 32);
	ck_assert_int_eq(parse(&w, &t, &err), 0);
	topo_fini(&t);
}
END_TEST

/* One changed value, and what must be said of it. */
#define AT(member)	(offsetof(struct wire, member) / sizeof(struct value))
static const struct {
	size_t		 at;
	struct value	 value;
	enum err_code	 code;
	const char	*text;
} wrong[] = {
	{ AT(magic), S("wallaroo"), ERR_CORRUPT, "not a topology" },
	{ AT(version), I(2), ERR_CORRUPT, "another version" },
	{ AT(application), S(""), ERR_CONFIG, "no name" },
	/* sources */
	{ AT(source[0][SRC_KIND]), S("udp"), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_KIND]), S(""), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_NEXT]), I(-1), ERR_CONFIG, "leads nowhere" },
	{ AT(source[0][SRC_NEXT]), I(-2), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_NEXT]), I(7), ERR_CONFIG, "leads nowhere" },
	{ AT(source[0][SRC_NEXT]), I(1LL << 32), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_NEXT]), I(5), ERR_CONFIG, "no exchange before" },
	{ AT(source[1][SRC_FN]), I(-1), ERR_CONFIG, "has no function" },
	{ AT(source[1][SRC_FRAMING]), S("lines"), ERR_CONFIG, "no framing" },
	{ AT(source[0][SRC_FRAMING]), S("none"), ERR_CONFIG, "no framing" },
	{ AT(source[2][SRC_FRAMING]), S("custom"), ERR_CONFIG,
	    "no function" },
	{ AT(source[0][SRC_HLEN]), I(0), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_HLEN]), I(2), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_HFORMAT]), S("I>"), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_HFORMAT]), S(">"), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_HFORMAT]), S(""), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_HFORMAT]), S(">II"), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_HFORMAT]), S(">Q"), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_HFORMAT]), S("@I"), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_HFORMAT]), S(">f"), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_MAX]), I(0), ERR_CONFIG, "largest size" },
	{ AT(source[0][SRC_MAX]), I(1LL << 31), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_MAX]), I(-1), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_HOST]), S(""), ERR_CONFIG, "no address" },
	{ AT(source[0][SRC_PORT]), I(65536), ERR_CORRUPT, "source 0" },
	{ AT(source[0][SRC_PARALLEL]), I(0), ERR_CONFIG, "parallelism" },
	{ AT(source[2][SRC_PATH]), S(""), ERR_CONFIG, "no path" },
	/* stages */
	{ AT(stage[0][STG_KIND]), S("Step"), ERR_CORRUPT, "stage 0" },
	{ AT(stage[0][STG_NEXT]), I(-1), ERR_CONFIG, "leads nowhere" },
	{ AT(stage[0][STG_NEXT]), I(7), ERR_CONFIG, "leads nowhere" },
	{ AT(stage[6][STG_NEXT]), I(0), ERR_CONFIG, "leads nowhere" },
	{ AT(stage[0][STG_FN]), I(-1), ERR_CONFIG, "has no function" },
	{ AT(stage[1][STG_FN]), I(-1), ERR_CONFIG, "has no function" },
	{ AT(stage[2][STG_FN]), I(-1), ERR_CONFIG, "has no function" },
	{ AT(stage[3][STG_FN]), I(1), ERR_CONFIG, "must not have" },
	{ AT(stage[6][STG_FN]), I(1), ERR_CONFIG, "must not have" },
	{ AT(stage[0][STG_EXCHANGE]), I(5), ERR_CONFIG, "must not have" },
	{ AT(stage[6][STG_EXCHANGE]), I(5), ERR_CONFIG, "must not have" },
	{ AT(stage[4][STG_EXCHANGE]), I(-1), ERR_CONFIG, "no exchange" },
	{ AT(stage[1][STG_EXCHANGE]), I(-1), ERR_CONFIG,
	    "\"count\": no exchange before its state" },
	{ AT(stage[1][STG_EXCHANGE]), I(1), ERR_CONFIG, "not in order" },
	{ AT(stage[4][STG_EXCHANGE]), I(0), ERR_CONFIG, "not in order" },
	{ AT(stage[4][STG_EXCHANGE]), I(2), ERR_CONFIG, "wrong number" },
	{ AT(stage[4][STG_EXCHANGE]), I(1000000), ERR_CONFIG,
	    "wrong number" },
	{ AT(stage[1][STG_MULTI]), B(1), ERR_CONFIG, "several outputs" },
	{ AT(stage[0][STG_POLICY]), S("stop"), ERR_CORRUPT, "stage 0" },
	{ AT(stage[2][STG_VERSION]), I(1LL << 32), ERR_CORRUPT, "stage 2" },
	{ AT(stage[5][STG_NAME]), S("count"), ERR_CONFIG,
	    "two states have this name" },
	{ AT(stage[5][STG_KIND]), S("sinks"), ERR_CONFIG, "leads nowhere" },
	{ AT(stage[0][STG_NEXT]), I(0), ERR_CONFIG, "circle" },
	/* sinks */
	{ AT(sink[0][SNK_KIND]), S("kafka"), ERR_CORRUPT, "sink 0" },
	{ AT(sink[0][SNK_EXCHANGE]), I(5), ERR_CONFIG, "must not have" },
	{ AT(sink[1][SNK_EXCHANGE]), I(-1), ERR_CONFIG, "no exchange" },
	{ AT(sink[1][SNK_EXCHANGE]), I(1), ERR_CONFIG, "wrong number" },
	{ AT(sink[1][SNK_EXCHANGE]), I(4), ERR_CONFIG, "wrong number" },
	{ AT(sink[1][SNK_EXCHANGE]), I(5), ERR_CONFIG, "wrong number" },
	{ AT(sink[0][SNK_HOST]), S(""), ERR_CONFIG, "no address" },
	{ AT(sink[0][SNK_PORT]), I(0), ERR_CONFIG, "no address" },
	{ AT(sink[1][SNK_PATH]), S(""), ERR_CONFIG, "no path" },
	{ AT(sink[1][SNK_NAME]), S("t"), ERR_CONFIG,
	    "two sinks have this name" },
	{ AT(sink[3][SNK_KIND]), S("stdout"), ERR_CONFIG,
	    "must be the dead letters" },
	{ AT(sink[2][SNK_KIND]), S("dead-letter"), ERR_CONFIG,
	    "only the last sink" },
	{ AT(sink[0][SNK_POLICY]), S(""), ERR_CORRUPT, "sink 0" },
};

START_TEST(test_wrong)
{
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct wire w = good;
		struct topo t;
		struct err err;

		(&w.magic)[wrong[i].at] = wrong[i].value;
		ck_assert_msg(parse(&w, &t, &err) == -1, "row %zu: %s", i,
		    wrong[i].text);
		ck_assert_msg(err.code == wrong[i].code &&
		    strstr(err.text, wrong[i].text) != NULL,
		    "row %zu: want %s, got %d %s", i, wrong[i].text,
		    (int)err.code, err.text);
	}
}
END_TEST

START_TEST(test_counts)
{
	struct wire w;
	struct topo t;
	struct err err;
	struct buf b;

	w = good;
	w.nsources = 0;
	ck_assert_int_eq(parse(&w, &t, &err), -1);
	w = good;
	w.nstages = 0;
	ck_assert_int_eq(parse(&w, &t, &err), -1);
	w = good;
	w.nsinks = 0;
	ck_assert_int_eq(parse(&w, &t, &err), -1);
	w = good;		/* no dead letters */
	w.nsinks = 3;
	ck_assert_int_eq(parse(&w, &t, &err), -1);
	w = good;		/* no end */
	w.nstages = 6;
	w.stage[5][STG_NEXT].num = 5;
	ck_assert_int_eq(parse(&w, &t, &err), -1);
	ck_assert_int_eq(err.code, ERR_CONFIG);
	/* a claim of four thousand million sources */
	buf_init(&b);
	mp_put_array(&b, 6);
	mp_put_str(&b, "wallaroo-topology");
	mp_put_uint(&b, 1);
	mp_put_str(&b, "x");
	buf_add(&b, "\xdd\xff\xff\xff\xff", 5);
	ck_assert_int_eq(topo_parse(&t, buf_slice(&b), &err), -1);
	ck_assert_int_eq(err.code, ERR_CORRUPT);
	buf_fini(&b);
}
END_TEST

START_TEST(test_formats)
{
	static const struct {
		const char	*format;
		int		 length;
		bool		 big, sign;
	} f[] = {
		{ "B", 1, false, false }, { ">b", 1, true, true },
		{ "!H", 2, true, false }, { "<h", 2, false, true },
		{ "=I", 4, false, false }, { ">i", 4, true, true },
		{ "<l", 4, false, true }, { "L", sizeof(long), false, false },
		{ ">Q", 8, true, false }, { "q", 8, false, true },
	};

	for (size_t i = 0; i < sizeof(f) / sizeof(f[0]); i++) {
		bool native = strchr("><!", f[i].format[0]) == NULL;
		struct wire w = good;
		struct topo t;
		struct err err;

		w.source[0][SRC_HFORMAT].str = f[i].format;
		w.source[0][SRC_HLEN].num = f[i].length;
		ck_assert_msg(parse(&w, &t, &err) == 0, "%s: %s", f[i].format,
		    err.text);
		ck_assert_int_eq(t.sources[0].header_big, native ?
		    __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ : f[i].big);
		ck_assert_int_eq(t.sources[0].header_signed, f[i].sign);
		topo_fini(&t);
	}
}
END_TEST

/* --- event time ---------------------------------------------------------- */

static void
put_source(struct buf *b, const char *name, int next)
{
	mp_put_array(b, 13);
	mp_put_str(b, name);
	mp_put_str(b, "gen");
	mp_put_int(b, next);
	mp_put_int(b, 0);
	mp_put_str(b, "none");
	mp_put_uint(b, 0);
	mp_put_str(b, "");
	mp_put_uint(b, 0);
	mp_put_str(b, "");
	mp_put_uint(b, 0);
	mp_put_str(b, "");
	mp_put_bin(b, "k", 1);
	mp_put_uint(b, 0);
}

/* The kind of the stage with state, and of its timers. */
static const char *state_kind = "state";
static bool timed_by_event;
/* Of late messages; 0: there is none. */
static int late_sink;
static uint32_t files;

static void
put_stage(struct buf *b, const char *kind, int next, int exchange)
{
	bool event = strcmp(kind, "event_time") == 0;
	bool windows = strcmp(kind, "range_windows") == 0;
	bool timed = strcmp(kind, "timed_state") == 0;
	bool state = strcmp(kind, "state") == 0 || timed;
	bool fn = strcmp(kind, "exchange") != 0 && strcmp(kind, "sinks") != 0;

	mp_put_array(b, windows && late_sink != 0 ? 11 : event || windows ?
	    10 : state ? 9 : 8);
	mp_put_str(b, kind);
	mp_put_str(b, kind);
	mp_put_int(b, next);
	mp_put_int(b, fn ? 1 : -1);
	mp_put_int(b, exchange);
	mp_put_bool(b, false);
	mp_put_str(b, "default");
	mp_put_uint(b, 0);
	if (event || windows) {
		mp_put_uint(b, event ? 7 : 0);
		mp_put_uint(b, event ? 2000000000 : 0);
		if (windows && late_sink != 0)
			mp_put_int(b, late_sink);
	} else if (timed)
		mp_put_bool(b, timed_by_event);
	else if (state)
		mp_put_int(b, 3);
}

static void
put_sink(struct buf *b, const char *name, const char *kind, int fn,
    const char *path, int exchange)
{
	mp_put_array(b, 8);
	mp_put_str(b, name);
	mp_put_str(b, kind);
	mp_put_int(b, fn);
	mp_put_str(b, "");
	mp_put_uint(b, 0);
	mp_put_str(b, path);
	mp_put_int(b, exchange);
	mp_put_str(b, "fail");
}

/* Two sources, the first at stage 0, the second at `second`; the kinds of
 * stages before windows and sinks. */
static const char *app_version;	/* NULL: the topology has none */

static int
parse_events(struct topo *t, int second, const char *const *kinds,
    struct err *err)
{
	struct buf b = { 0 };
	int i, n = 0, r;

	while (kinds[n] != NULL)
		n++;
	mp_put_array(&b, app_version == NULL ? 6 : 7);
	mp_put_str(&b, "wallaroo-topology");
	mp_put_uint(&b, 1);
	mp_put_str(&b, "app");
	mp_put_array(&b, 2);
	put_source(&b, "one", 0);
	put_source(&b, "two", second);
	mp_put_array(&b, (uint32_t)n + 4);
	for (i = 0; i < n; i++)
		put_stage(&b, kinds[i], i + 1, -1);
	put_stage(&b, "exchange", n + 1, 0);
	put_stage(&b, "range_windows", n + 2, -1);
	put_stage(&b, state_kind, n + 3, -1);
	put_stage(&b, "sinks", -1, -1);
	mp_put_array(&b, files + 1);
	for (i = 0; i < (int)files; i++) {
		char name[] = { (char)('a' + i), '\0' };

		put_sink(&b, name, "file", 1, name, i + 1);
	}
	put_sink(&b, "dead-letters", "dead-letter", -1, "", (int)files + 1);
	if (app_version != NULL)
		mp_put_str(&b, app_version);
	err->text[0] = '\0';
	r = topo_parse(t, buf_slice(&b), err);
	buf_fini(&b);
	return (r);
}

static void
refused(int second, const char *const *kinds, const char *why)
{
	struct topo t;
	struct err err;

	ck_assert_int_eq(parse_events(&t, second, kinds, &err), -1);
	ck_assert_msg(strstr(err.text, why) != NULL, "%s", err.text);
}

START_TEST(test_application_version)
{
	static const char *const kinds[] = { "step", NULL };
	struct topo t;
	struct err err;
	struct buf b = { 0 };

	ck_assert_msg(parse_events(&t, 1, kinds, &err) == 0, "%s", err.text);
	ck_assert_str_eq(t.version, "");
	topo_fini(&t);
	app_version = "1.2 beta";
	ck_assert_msg(parse_events(&t, 1, kinds, &err) == 0, "%s", err.text);
	ck_assert_str_eq(t.version, "1.2 beta");
	topo_print(&t, &b);
	ck_assert_ptr_nonnull(strstr(buf_str(&b), "\"app\" version "
	    "\"1.2 beta\"\n"));
	buf_fini(&b);
	topo_fini(&t);
	app_version = NULL;
}
END_TEST

START_TEST(test_event_time)
{
	static const char *const kinds[] = { "step", "event_time", NULL },
	    *const none[] = { "step", NULL },
	    *const twice[] = { "event_time", "step", "event_time", NULL },
	    *const late[] = { "key_by", "event_time", NULL };
	struct topo t;
	struct err err;
	struct buf b = { 0 };

	ck_assert_msg(parse_events(&t, 1, kinds, &err) == 0, "%s", err.text);
	ck_assert(t.event_time);
	ck_assert_int_eq(t.sources[0].event_stage, 1);
	ck_assert_int_eq(t.sources[1].event_stage, 1);
	ck_assert_uint_eq(t.stages[1].lateness_ns, 7);
	ck_assert_uint_eq(t.stages[1].idle_ns, 2000000000);
	ck_assert(t.stages[3].by_event);
	ck_assert_int_eq(t.stages[4].on_end, 4);
	ck_assert(stage_has_dues(&t.stages[4]));
	topo_print(&t, &b);
	ck_assert_ptr_nonnull(strstr(buf_str(&b), "lateness 7e-09s idle 2s"));
	buf_fini(&b);
	topo_fini(&t);
	ck_assert_msg(parse_events(&t, 1, none, &err) == 0, "%s", err.text);
	ck_assert(!t.event_time && !t.stages[2].by_event);
	ck_assert_int_eq(t.sources[0].event_stage, -1);
	topo_fini(&t);
	refused(2, kinds, "all sources have event times, or none");
	refused(0, twice, "a second time on one way");
	refused(0, late, "only stateless steps may be before it");
}
END_TEST

START_TEST(test_late)
{
	static const char *const kinds[] = { "event_time", NULL },
	    *const none[] = { "step", NULL };
	struct topo t;
	struct err err;
	struct buf b = { 0 };

	files = 2;
	late_sink = 1;
	ck_assert_msg(parse_events(&t, 0, kinds, &err) == 0, "%s", err.text);
	ck_assert_int_eq(t.stages[2].late, 2);
	topo_print(&t, &b);
	ck_assert_ptr_nonnull(strstr(buf_str(&b), " late to sink 1"));
	buf_fini(&b);
	topo_fini(&t);
	refused(0, none, "without event times are not late");
	late_sink = -1;
	ck_assert_msg(parse_events(&t, 0, kinds, &err) == 0, "%s", err.text);
	ck_assert_int_eq(t.stages[2].late, 0);
	topo_fini(&t);
	late_sink = 2;
	refused(0, kinds, "no such sink");
	files = 3;
	late_sink = 1;
	refused(0, kinds, "is behind those of late messages");
	files = 0;
	refused(0, kinds, "no such sink");
	late_sink = 0;
}
END_TEST

START_TEST(test_timers)
{
	static const char *const kinds[] = { "event_time", NULL },
	    *const none[] = { "step", NULL };
	struct topo t;
	struct err err;
	struct buf b = { 0 };

	state_kind = "timed_state";
	ck_assert_msg(parse_events(&t, 0, none, &err) == 0, "%s", err.text);
	ck_assert(stage_is_state(&t.stages[3]) &&
	    stage_has_heads(&t.stages[3]) && !t.stages[3].by_event);
	topo_fini(&t);
	timed_by_event = true;
	ck_assert_msg(parse_events(&t, 0, kinds, &err) == 0, "%s", err.text);
	ck_assert(t.stages[3].by_event);
	topo_print(&t, &b);
	ck_assert_ptr_nonnull(strstr(buf_str(&b), "by event time"));
	buf_fini(&b);
	topo_fini(&t);
	refused(0, none, "timers by event time need messages");
	timed_by_event = false;
	state_kind = "state";
}
END_TEST

START_TEST(test_noise)
{
	struct buf b = encode(&good);
	uint64_t state = 5;
	struct topo t;
	struct err err;
	int ok = 0;

	for (int i = 0; i < 20000; i++) {
		struct slice s = unit_exact(b.data, b.len);
		uint8_t *at = (uint8_t *)(uintptr_t)s.data +
		    unit_random(&state) % s.len;

		*at = (uint8_t)unit_random(&state);
		if (topo_parse(&t, s, &err) == 0) {
			struct buf text;

			ok++;
			buf_init(&text);
			topo_print(&t, &text);
			buf_fini(&text);
			topo_fini(&t);
		}
		unit_free(s);
	}
	ck_assert_int_gt(ok, 0);
	buf_fini(&b);
}
END_TEST

UNIT_MAIN("topo", test_good, test_connector, test_kafka,
    test_connector_sink, test_truncated, test_wrong_type, test_wrong,
    test_counts, test_formats, test_event_time, test_late, test_timers,
    test_application_version, test_noise)
