/* The connector protocol: its frames, and the session of a source. */
#include <stdio.h>
#include <string.h>

#include "tests/unit/unit.h"
#include "worker/connector.h"
#include "worker/connector_wire.h"

static struct topo_source source = { .cookie = "Dragons-Love-Tacos",
	.max_credits = 10, .refill_credits = 8 };

/* Bytes of a text of hexadecimal digits and spaces, in memory of exactly
 * their size. */
static struct slice
hex(const char *text)
{
	uint8_t bytes[512];
	unsigned int v;
	size_t n = 0;

	for (; *text != '\0'; text++)
		if (*text != ' ') {
			ck_assert_int_eq(sscanf(text, "%2x", &v), 1);
			bytes[n++] = (uint8_t)v;
			text++;
		}
	return (unit_exact(bytes, n));
}

static struct slice
text(const char *s)
{
	return (slice_of(s, strlen(s)));
}

static void
same(struct slice a, struct slice b)
{
	ck_assert_uint_eq(a.len, b.len);
	if (a.len > 0)
		ck_assert_mem_eq(a.data, b.data, a.len);
}

/* --- frames -------------------------------------------------------------- */

/* Against bytes that another implementation has made. */
#define GOLDEN(name, expected, ...)					\
	do {								\
		struct wire_##name m = { __VA_ARGS__ }, got;		\
		struct slice s = hex(expected);				\
		struct buf b = { 0 };					\
									\
		wire_put_##name(&b, &m);				\
		same(buf_slice(&b), s);					\
		ck_assert(wire_get_##name(&got, slice_of(s.data + 4,	\
		    s.len - 4)));					\
		buf_clear(&b);						\
		wire_put_##name(&b, &got);				\
		same(buf_slice(&b), s);					\
		truncated_##name(slice_of(s.data + 4, s.len - 4));	\
		buf_fini(&b);						\
		unit_free(s);						\
	} while (0)

/* Every shorter one is refused, unless its last field takes what is left. */
#define TRUNCATED(name, tag)						\
static void								\
truncated_##name(struct slice s)					\
{									\
	struct wire_##name m;						\
	size_t n;							\
									\
	for (n = 0; n < s.len; n++) {					\
		struct slice cut = unit_exact(s.data, n);		\
		bool open = (tag) == WIRE_message && n >= 28;		\
									\
		open |= (tag) == WIRE_restart && n == 1;		\
		ck_assert(wire_get_##name(&m, cut) == open);		\
		unit_free(cut);						\
	}								\
}
WIRE_TABLE(TRUNCATED)

START_TEST(test_golden_frames)
{
	struct slice point = slice_of("\0\0\0\0\0\0\0\1"
	    "\0\0\0\0\0\0\0\10", 16);

	GOLDEN(hello, "00000028 00 0005 302e302e31 0012 447261676f6e732d4c6f"
	    "76652d5461636f73 0004 70726f67 0004 696e7374", text("0.0.1"),
	    text("Dragons-Love-Tacos"), text("prog"), text("inst"));
	GOLDEN(ok, "00000005 01 0000000a", 10);
	GOLDEN(error, "00000006 02 0003 626164", text("bad"));
	GOLDEN(notify, "00000015 03 0000000000000001 0002 7331 "
	    "0000000000000000", 1, text("s1"), 0);
	GOLDEN(notify_ack, "00000012 04 01 0000000000000001 ffffffffffffffff",
	    1, 1, WIRE_NOTHING);
	GOLDEN(message, "00000020 05 0000000000000001 0000000000000008 "
	    "0000000000000000 0001 6b 64617461", 1, 8, 0, text("k"),
	    text("data"));
	GOLDEN(ack, "00000019 06 00000003 00000001 0000000000000001 "
	    "0000000000000008", 3, { 1, point });
	GOLDEN(restart, "00000013 07 0000000e 3132372e302e302e313a37313030",
	    text("127.0.0.1:7100"));
	GOLDEN(eos, "00000009 08 0000000000000001", 1, { NULL, 0 });
}
END_TEST

#define GOLDEN_BODY(name, expected, ...)				\
	do {								\
		struct wire_##name m = { __VA_ARGS__ }, got;		\
		struct slice s = hex(expected);				\
		struct buf b = { 0 };					\
									\
		wire_body_##name(&b, &m);				\
		same(buf_slice(&b), s);					\
		ck_assert(wire_get_##name(&got, s));			\
		buf_clear(&b);						\
		wire_body_##name(&b, &got);				\
		same(buf_slice(&b), s);					\
		truncated_##name(s);					\
		buf_fini(&b);						\
		unit_free(s);						\
	} while (0)

START_TEST(test_golden_bodies)
{
	struct wire_list ids = { 1, { NULL, 0 } }, none = { 0, { NULL, 0 } };
	struct buf raw = { 0 }, where = { 0 };
	struct wire_list range = { 1, { NULL, 0 } };
	struct slice id;
	uint64_t v[3];

	wire_add_text(&raw, text("t:c_id=3"));
	ids.raw = buf_slice(&raw);
	GOLDEN_BODY(list_uncommitted, "c9 0000000000012fd2", 77778);
	GOLDEN_BODY(reply_uncommitted, "ca 0000000000012fd2 00000001 0008 "
	    "743a635f69643d33", 77778, ids);
	GOLDEN_BODY(reply_uncommitted, "ca 0000000000012fd2 00000000", 77778,
	    none);
	GOLDEN_BODY(reply, "cc 0008 743a635f69643d33 01", text("t:c_id=3"),
	    1);
	GOLDEN_BODY(phase2, "cd 0008 743a635f69643d33 00", text("t:c_id=3"),
	    0);
	ck_assert(wire_next_text(&ids, &id));
	same(id, text("t:c_id=3"));
	ck_assert(!wire_next_text(&ids, &id));
	wire_add_u64(&where, 1);
	wire_add_u64(&where, 5);
	wire_add_u64(&where, 9);
	range.raw = buf_slice(&where);
	GOLDEN_BODY(phase1, "cb 0008 743a635f69643d33 00000001 "
	    "0000000000000001 0000000000000005 0000000000000009",
	    text("t:c_id=3"), range);
	wire_range(&range, 0, v);
	ck_assert_uint_eq(v[0] * 100 + v[1] * 10 + v[2], 159);
	buf_clear(&raw);
	wire_add_text(&raw, text("w2"));
	ids.n = 1;
	ids.raw = buf_slice(&raw);
	GOLDEN_BODY(workers_left, "ce 0000000000000007 00000001 0002 7732", 7,
	    ids);
	buf_fini(&raw);
	buf_fini(&where);
}
END_TEST

START_TEST(test_odd_frames)
{
	struct wire_eos eos;
	struct wire_ack ack;
	struct wire_restart restart;
	struct wire_reply_uncommitted r;
	struct wire_error error;
	struct slice s = hex("08 0000000000000002 0000000000000009");
	char long_text[70000];
	struct buf b = { 0 };
	uint64_t v[2];

	ck_assert(wire_get_eos(&eos, s));	/* with the message's id */
	ck_assert_uint_eq(eos.stream, 2);
	unit_free(s);
	s = hex("07");				/* without an address */
	ck_assert(wire_get_restart(&restart, s));
	ck_assert_uint_eq(restart.address.len, 0);
	unit_free(s);
	/* A count that is larger than what follows. */
	s = hex("06 00000000 10000000 0000000000000001 0000000000000008");
	ck_assert(!wire_get_ack(&ack, s));
	unit_free(s);
	s = hex("ca 0000000000000001 ffffffff 0000 0000");
	ck_assert(!wire_get_reply_uncommitted(&r, s));
	unit_free(s);
	s = hex("06 00000000 00000002 0000000000000001 0000000000000008 "
	    "0000000000000003 0000000000000004");
	ck_assert(wire_get_ack(&ack, s));
	wire_pair(&ack.points, 1, v);
	ck_assert_uint_eq(v[0] * 10 + v[1], 34);
	unit_free(s);
	ck_assert_int_eq(wire_tag(slice_of(NULL, 0)), -1);
	ck_assert_int_eq(wire_tag(text("\011")), -1);
	ck_assert_int_eq(wire_tag(text("\010")), WIRE_eos);
	ck_assert_ptr_null(wire_name(200));
	/* A text that is too long for the wire is cut. */
	memset(long_text, 'x', sizeof(long_text));
	error.message = slice_of(long_text, sizeof(long_text));
	wire_put_error(&b, &error);
	ck_assert_uint_eq(b.len, 4 + 1 + 2 + 65535);
	buf_fini(&b);
}
END_TEST

/* --- sessions ------------------------------------------------------------ */

struct peer {
	struct streams	*streams;
	uint64_t	 conn;
	bool		 greeted;
	struct buf	 reply;
	struct session	 x;
	struct buf	 said;
};

static enum session_verdict
say(struct peer *p)
{
	enum session_verdict v;

	buf_clear(&p->reply);
	memset(&p->x, 0, sizeof(p->x));
	p->x.src = &source;
	p->x.streams = p->streams;
	p->x.most = 3;
	p->x.conn = p->conn;
	p->x.greeted = p->greeted;
	p->x.reply = &p->reply;
	v = session_frame(&p->x, slice_of(p->said.data + 4,
	    p->said.len - 4));
	p->greeted = true;
	return (v);
}

#define SAY(p, name, ...)						\
	(buf_clear(&(p)->said),						\
	    wire_put_##name(&(p)->said, &(struct wire_##name){ __VA_ARGS__ }), \
	    say(p))

static struct slice
answer(const struct peer *p)
{
	return (slice_of(p->reply.data + 4, p->reply.len - 4));
}

static void
refused(const struct peer *p, const char *why)
{
	struct wire_error m;

	ck_assert(wire_get_error(&m, answer(p)));
	same(m.message, text(why));
	ck_assert_str_eq(p->x.why, why);
}

static void
greet(struct peer *p, struct streams *t, uint64_t conn)
{
	struct wire_ok ok;

	memset(p, 0, sizeof(*p));
	p->streams = t;
	p->conn = conn;
	ck_assert_int_eq(SAY(p, hello, text("0.0.1"), text(source.cookie),
	    text("prog"), text("inst")), SESSION_GO_ON);
	ck_assert(wire_get_ok(&ok, answer(p)));
	ck_assert_uint_eq(ok.credits, 10);
}

static void
leave(struct peer *p)
{
	buf_fini(&p->reply);
	buf_fini(&p->said);
}

/* 1: the stream is open from there on. */
static int
announce(struct peer *p, uint64_t stream, uint64_t point, uint64_t *at)
{
	struct wire_notify_ack a;

	ck_assert_int_eq(SAY(p, notify, stream, text("name"), point),
	    SESSION_GO_ON);
	ck_assert(wire_get_notify_ack(&a, answer(p)));
	ck_assert_uint_eq(a.stream, stream);
	*at = a.point;
	return (a.success);
}

static enum session_verdict
give(struct peer *p, uint64_t stream, uint64_t id, const char *body)
{
	return (SAY(p, message, stream, id, 0, text("key"), text(body)));
}

START_TEST(test_hello)
{
	static const struct {
		const char	*version, *cookie, *why;
	} wrong[] = {
		{ "0.0.2", "Dragons-Love-Tacos",
		    "Unknown protocol version: 0.0.2" },
		{ "", "Dragons-Love-Tacos", "Unknown protocol version: " },
		{ "a\n\"b\x80", "", "Unknown protocol version: a??b?" },
		{ "0.0.1", "Dragons-Love-Taco", "Bad cookie" },
		{ "0.0.1", "Dragons-Love-TacosD", "Bad cookie" },
		{ "0.0.1", "Dragons-Love-TacosDragons-Love-Tacos",
		    "Bad cookie" },
		{ "0.0.1", "", "Bad cookie" },
	};
	struct streams t = { NULL };
	struct peer p;
	size_t i;

	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		memset(&p, 0, sizeof(p));
		p.streams = &t;
		ck_assert_int_eq(SAY(&p, hello, text(wrong[i].version),
		    text(wrong[i].cookie), text(""), text("")), SESSION_END);
		refused(&p, wrong[i].why);
		leave(&p);
	}
	memset(&p, 0, sizeof(p));
	p.streams = &t;
	ck_assert_int_eq(SAY(&p, notify, 1, text("n"), 0), SESSION_END);
	refused(&p, "Bad protocol FSM state: HELLO must come first");
	leave(&p);
	memset(&p, 0, sizeof(p));		/* it may refuse us first */
	p.streams = &t;
	ck_assert_int_eq(SAY(&p, error, text("no \x1b[31m")), SESSION_END);
	ck_assert_str_eq(p.x.why, "the connector says: no ?[31m");
	ck_assert_uint_eq(p.reply.len, 0);
	leave(&p);
	greet(&p, &t, 1);
	ck_assert_int_eq(SAY(&p, hello, text("0.0.1"), text(source.cookie),
	    text(""), text("")), SESSION_END);
	refused(&p, "Bad protocol FSM state: HELLO was said before");
	leave(&p);
	source.cookie = (char *)(uintptr_t)"";	/* no cookie, none is right */
	greet(&p, &t, 1);
	leave(&p);
	memset(&p, 0, sizeof(p));
	p.streams = &t;
	ck_assert_int_eq(SAY(&p, hello, text("0.0.1"), text("x"), text(""),
	    text("")), SESSION_END);
	refused(&p, "Bad cookie");
	leave(&p);
	streams_fini(&t);
}
END_TEST

START_TEST(test_stream)
{
	struct streams t = { NULL };
	struct peer p;
	uint64_t at;

	greet(&p, &t, 1);
	ck_assert_int_eq(announce(&p, 7, 55, &at), 1);
	ck_assert_uint_eq(at, WIRE_NOTHING);	/* whatever it believes */
	ck_assert(p.x.news);
	ck_assert_int_eq(announce(&p, 7, 55, &at), 0);
	ck_assert_uint_eq(at, 55);
	ck_assert(!p.x.news);
	ck_assert_int_eq(give(&p, 7, 0, "first"), SESSION_RECORD);
	same(p.x.key, text("key"));
	same(p.x.body, text("first"));
	ck_assert_uint_eq(p.x.stream, 7);
	ck_assert_uint_eq(p.x.id, 0);
	ck_assert_int_eq(give(&p, 7, 0, "repeated"), SESSION_GO_ON);
	ck_assert(!p.x.news);
	ck_assert_int_eq(give(&p, 7, 9, "gap"), SESSION_RECORD);
	ck_assert_int_eq(give(&p, 7, 8, "older"), SESSION_GO_ON);
	ck_assert_int_eq(give(&p, 7, 10, ""), SESSION_GO_ON);
	ck_assert(p.x.news);			/* the point has moved */
	ck_assert_uint_eq(p.reply.len, 0);
	ck_assert_int_eq(give(&p, 7, WIRE_NOTHING - 1, "last"),
	    SESSION_RECORD);
	ck_assert_int_eq(SAY(&p, eos, 7, { NULL, 0 }), SESSION_GO_ON);
	ck_assert_int_eq(give(&p, 7, WIRE_NOTHING - 1, "x"), SESSION_END);
	refused(&p, "Bad/unregistered stream_id 7 with message_id "
	    "18446744073709551614");
	leave(&p);
	streams_fini(&t);
}
END_TEST

START_TEST(test_one_owner)
{
	struct streams t = { NULL };
	struct peer p, q;
	uint64_t at;

	greet(&p, &t, 1);
	greet(&q, &t, 2);
	ck_assert_int_eq(announce(&p, 5, 0, &at), 1);
	ck_assert_int_eq(announce(&q, 5, 3, &at), 0);
	ck_assert_int_eq(give(&q, 5, 1, "x"), SESSION_END);
	ck_assert_int_eq(SAY(&q, eos, 5, { NULL, 0 }), SESSION_END);
	refused(&q, "Unknown StreamId");
	ck_assert_int_eq(give(&p, 5, 1, "x"), SESSION_RECORD);
	streams_release(&t, 1);
	ck_assert_int_eq(announce(&q, 5, 0, &at), 1);
	ck_assert_int_eq(give(&q, 5, 1, "repeated"), SESSION_GO_ON);
	ck_assert_int_eq(give(&p, 5, 2, "x"), SESSION_END);
	/* No more than three of them. */
	ck_assert_int_eq(announce(&q, 6, 0, &at), 1);
	ck_assert_int_eq(announce(&q, 8, 0, &at), 1);
	ck_assert_int_eq(SAY(&q, notify, 9, text("n"), 0), SESSION_END);
	refused(&q, "Too many streams");
	leave(&p);
	leave(&q);
	streams_fini(&t);
}
END_TEST

START_TEST(test_wrong_direction)
{
	struct streams t = { NULL };
	struct wire_list none = { 0, { NULL, 0 } };
	struct peer p;
	struct slice s;
	uint64_t at;

	greet(&p, &t, 1);
	ck_assert_int_eq(SAY(&p, ok, 1), SESSION_END);
	refused(&p, "Invalid message: ok");
	ck_assert_int_eq(SAY(&p, notify_ack, 1, 1, 1), SESSION_END);
	refused(&p, "Invalid message: notify_ack");
	ck_assert_int_eq(SAY(&p, ack, 1, none), SESSION_END);
	refused(&p, "Invalid message: ack");
	ck_assert_int_eq(SAY(&p, restart, text("")), SESSION_END);
	refused(&p, "Invalid message: restart");
	ck_assert_int_eq(SAY(&p, phase2, text("t"), 1), SESSION_END);
	refused(&p, "Invalid message: phase2");
	ck_assert_int_eq(announce(&p, 1, 0, &at), 1);
	s = hex("00000001 05");			/* half a message */
	buf_clear(&p.said);
	buf_add(&p.said, s.data, s.len);
	unit_free(s);
	ck_assert_int_eq(say(&p), SESSION_END);
	refused(&p, "Unable to decode message");
	p.said.len = 4;				/* nothing at all */
	ck_assert_int_eq(say(&p), SESSION_END);
	leave(&p);
	streams_fini(&t);
}
END_TEST

struct acks {
	uint32_t	n;
	uint64_t	conn, id, point;	/* the last one's */
};

static void
note(void *arg, uint64_t conn, uint64_t id, uint64_t point)
{
	struct acks *a = arg;

	a->n++;
	a->conn = conn;
	a->id = id;
	a->point = point;
}

/* Only what a committed checkpoint holds, once, and to who has it open. */
START_TEST(test_acknowledged)
{
	struct streams t = { NULL }, u = { NULL };
	struct acks a = { 0 };
	struct buf packed = { 0 };
	struct peer p;
	uint64_t at;

	greet(&p, &t, 1);
	ck_assert_int_eq(announce(&p, 5, 0, &at), 1);
	streams_taken(&t);
	streams_committed(&t, note, &a);
	ck_assert_uint_eq(a.n, 0);		/* nothing was sent yet */
	(void)give(&p, 5, 3, "x");
	streams_taken(&t);
	(void)give(&p, 5, 4, "x");
	ck_assert_uint_eq(a.n, 0);
	streams_committed(&t, note, &a);
	ck_assert_uint_eq(a.n, 1);
	ck_assert_uint_eq(a.conn, 1);
	ck_assert_uint_eq(a.id, 5);
	ck_assert_uint_eq(a.point, 3);
	streams_committed(&t, note, &a);
	ck_assert_uint_eq(a.n, 1);
	/* Who comes anew is told that, and what came since is repeated. */
	streams_release(&t, 1);
	ck_assert_int_eq(announce(&p, 5, 0, &at), 1);
	ck_assert_uint_eq(at, 3);
	ck_assert_int_eq(give(&p, 5, 4, "repeated"), SESSION_GO_ON);
	/* The end waits for a checkpoint that begins after it. */
	streams_taken(&t);
	(void)SAY(&p, eos, 5, { NULL, 0 });
	streams_committed(&t, note, &a);
	ck_assert_uint_eq(a.n, 1);		/* it is open nowhere now */
	streams_taken(&t);
	streams_committed(&t, note, &a);
	ck_assert_uint_eq(a.n, 2);
	ck_assert_uint_eq(a.point, 4);
	streams_taken(&t);
	streams_committed(&t, note, &a);
	ck_assert_uint_eq(a.n, 2);
	/* What a checkpoint says comes back, as acknowledged. */
	ck_assert_int_eq(announce(&p, 6, 0, &at), 1);
	(void)give(&p, 6, 9, "x");
	streams_pack(&t, &packed);
	ck_assert_int_eq(streams_unpack(&u, buf_slice(&packed)), 0);
	ck_assert_uint_eq(streams_find(&u, 5)->acked, 4);
	ck_assert_uint_eq(streams_find(&u, 5)->conn, 0);
	ck_assert_uint_eq(streams_find(&u, 6)->seen, 9);
	ck_assert_uint_eq(streams_find(&u, 6)->conn, 1);
	ck_assert_int_eq(streams_unpack(&u, buf_slice(&packed)), -1);
	streams_fini(&u);
	ck_assert_int_eq(streams_unpack(&u, slice_of("", 0)), 0);
	for (at = 1; at < packed.len; at++) {
		struct slice s = unit_exact(packed.data, at);

		ck_assert_int_eq(streams_unpack(&u, s), -1);
		streams_fini(&u);
		unit_free(s);
	}
	buf_fini(&packed);
	leave(&p);
	streams_fini(&t);
}
END_TEST

UNIT_MAIN("connector", test_golden_frames, test_golden_bodies,
    test_odd_frames, test_hello, test_stream, test_one_owner,
    test_wrong_direction, test_acknowledged)
