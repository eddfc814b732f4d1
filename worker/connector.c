/* See connector.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/mp.h"
#include "worker/connector.h"
#include "worker/connector_wire.h"

#define SOURCE_VERSION	"0.0.1"
#define SHOWN		60		/* bytes of a peer's text */

/* --- streams ------------------------------------------------------------- */

struct stream *
streams_find(const struct streams *t, uint64_t id)
{
	struct stream *s;

	HASH_FIND(hh, t->by_id, &id, sizeof(id), s);
	return (s);
}

static struct stream *
add_stream(struct streams *t, uint64_t id)
{
	struct stream *s = xcalloc(1, sizeof(*s));

	s->id = id;
	s->seen = s->acked = s->taken = WIRE_NOTHING;
	HASH_ADD(hh, t->by_id, id, sizeof(s->id), s);
	return (s);
}

void
streams_release(struct streams *t, uint64_t conn)
{
	struct stream *s, *next;

	HASH_ITER(hh, t->by_id, s, next)
		if (s->conn == conn)
			s->conn = 0;
}

void
streams_fini(struct streams *t)
{
	struct stream *s, *next;

	HASH_ITER(hh, t->by_id, s, next) {
		HASH_DEL(t->by_id, s);
		free(s);
	}
}

void
streams_pack(const struct streams *t, struct buf *b)
{
	struct stream *s, *next;

	mp_put_array(b, (uint32_t)HASH_COUNT(t->by_id));
	HASH_ITER(hh, t->by_id, s, next) {
		mp_put_array(b, 3);
		mp_put_uint(b, s->id);
		mp_put_uint(b, s->seen);
		mp_put_uint(b, s->conn);
	}
}

int
streams_unpack(struct streams *t, struct slice packed)
{
	uint64_t id, seen, conn;
	struct stream *s;
	struct mp c;
	uint32_t i, n;

	if (packed.len == 0)		/* of a source that had none yet */
		return (0);
	mp_init(&c, packed);
	n = mp_get_array(&c);
	for (i = 0; i < n && mp_ok(&c); i++) {
		if (mp_get_array(&c) != 3)
			c.bad = true;
		id = mp_get_uint(&c, UINT64_MAX);
		seen = mp_get_uint(&c, UINT64_MAX);
		conn = mp_get_uint(&c, UINT64_MAX);
		if (!mp_ok(&c) || streams_find(t, id) != NULL) {
			c.bad = true;
			break;
		}
		s = add_stream(t, id);
		/* What a checkpoint has is committed. */
		s->seen = s->acked = s->taken = seen;
		s->conn = conn;
	}
	return (mp_end(&c) ? 0 : -1);
}

void
streams_taken(struct streams *t)
{
	struct stream *s, *next;

	HASH_ITER(hh, t->by_id, s, next) {
		s->taken = s->seen;
		s->ended_taken = s->ended;
	}
}

void
streams_committed(struct streams *t, void (*ack)(void *, uint64_t, uint64_t,
    uint64_t), void *arg)
{
	struct stream *s, *next;

	HASH_ITER(hh, t->by_id, s, next) {
		if (s->taken != s->acked || s->due) {
			s->due = false;
			s->acked = s->taken;
			if (s->conn != 0 && s->acked != WIRE_NOTHING)
				ack(arg, s->conn, s->id, s->acked);
		}
		if (s->ended_taken == 0)
			continue;
		ack(arg, s->ended_taken, s->id, s->acked);
		if (s->ended == s->ended_taken)
			s->ended = 0;
		s->ended_taken = 0;
	}
}

/* --- the session --------------------------------------------------------- */

void
session_refuse(struct buf *reply, const char *why)
{
	struct wire_error m = { slice_of(why, strlen(why)) };

	wire_put_error(reply, &m);
}

static enum session_verdict
refuse(struct session *x)
{
	session_refuse(x->reply, x->why);
	return (SESSION_END);
}

static enum session_verdict
refuse_for(struct session *x, const char *why)
{
	(void)snprintf(x->why, sizeof(x->why), "%s", why);
	return (refuse(x));
}

/* Why, and what the peer said, of which only harmless characters. */
static void
say_why(struct session *x, const char *why, struct slice said)
{
	size_t n = strlen(why), i;

	(void)snprintf(x->why, sizeof(x->why), "%s", why);
	for (i = 0; i < said.len && i < SHOWN && n < sizeof(x->why) - 1; i++)
		x->why[n++] = said.data[i] < 0x20 || said.data[i] > 0x7e ||
		    said.data[i] == '"' ? '?' : (char)said.data[i];
	x->why[n] = '\0';
}

static bool
is_text(struct slice s, const char *text)
{
	return (s.len == strlen(text) && memcmp(s.data, text, s.len) == 0);
}

/* In a time that does not tell how much of it is right. */
static bool
same_cookie(struct slice s, const char *cookie)
{
	size_t n = strlen(cookie), i;
	unsigned int differs = s.len != n;

	for (i = 0; i < s.len; i++)
		differs |= s.data[i] ^ (unsigned int)(uint8_t)(n == 0 ? 0 :
		    cookie[i % n]);
	return (differs == 0);
}

static enum session_verdict
on_hello(struct session *x, struct slice frame)
{
	struct wire_ok ok = { x->src->max_credits };
	struct wire_hello m;

	if (!wire_get_hello(&m, frame))
		return (refuse_for(x, "Unable to decode message"));
	if (!is_text(m.version, SOURCE_VERSION)) {
		say_why(x, "Unknown protocol version: ", m.version);
		return (refuse(x));
	}
	if (!same_cookie(m.cookie, x->src->cookie))
		return (refuse_for(x, "Bad cookie"));
	wire_put_ok(x->reply, &ok);
	return (SESSION_GO_ON);
}

static enum session_verdict
on_notify(struct session *x, struct slice frame)
{
	struct wire_notify_ack a = { .success = 0 };
	struct wire_notify m;
	struct stream *s;

	if (!wire_get_notify(&m, frame))
		return (refuse_for(x, "Unable to decode message"));
	s = streams_find(x->streams, m.stream);
	if (s == NULL && HASH_COUNT(x->streams->by_id) >= x->most)
		return (refuse_for(x, "Too many streams"));
	if (s == NULL)
		s = add_stream(x->streams, m.stream);
	a.stream = m.stream;
	a.point = m.point;
	if (s->conn == 0) {
		x->news = true;
		s->due = true;
		s->conn = x->conn;
		a.success = 1;
		a.point = s->acked;
	}
	wire_put_notify_ack(x->reply, &a);
	return (SESSION_GO_ON);
}

static enum session_verdict
on_message(struct session *x, struct slice frame)
{
	struct wire_message m;
	struct stream *s;

	if (!wire_get_message(&m, frame))
		return (refuse_for(x, "Unable to decode message"));
	s = streams_find(x->streams, m.stream);
	if (s == NULL || s->conn != x->conn || m.id == WIRE_NOTHING) {
		(void)snprintf(x->why, sizeof(x->why), "Bad/unregistered "
		    "stream_id %" PRIu64 " with message_id %" PRIu64,
		    m.stream, m.id);
		return (refuse(x));
	}
	if (s->seen != WIRE_NOTHING && m.id <= s->seen)
		return (SESSION_GO_ON);		/* it came before */
	s->seen = m.id;
	x->news = true;
	x->key = m.key;
	x->body = m.body;
	x->stream = m.stream;
	x->id = m.id;
	/* Without a body only the position moves. */
	return (m.body.len == 0 ? SESSION_GO_ON : SESSION_RECORD);
}

static enum session_verdict
on_eos(struct session *x, struct slice frame)
{
	struct wire_eos m;
	struct stream *s;

	if (!wire_get_eos(&m, frame))
		return (refuse_for(x, "Unable to decode message"));
	s = streams_find(x->streams, m.stream);
	if (s == NULL || s->conn != x->conn)
		return (refuse_for(x, "Unknown StreamId"));
	x->news = true;
	s->conn = 0;
	s->ended = x->conn;
	return (SESSION_GO_ON);
}

static enum session_verdict
on_error(struct session *x, struct slice frame)
{
	struct wire_error m;

	if (!wire_get_error(&m, frame))
		return (refuse_for(x, "Unable to decode message"));
	say_why(x, "the connector says: ", m.message);
	return (SESSION_END);
}

enum session_verdict
session_frame(struct session *x, struct slice frame)
{
	int tag = wire_tag(frame);

	x->news = false;
	if (tag == -1)
		return (refuse_for(x, "Unable to decode message"));
	if (x->greeted ? tag == WIRE_hello : tag != WIRE_hello &&
	    tag != WIRE_error)
		return (refuse_for(x, x->greeted ? "Bad protocol FSM state: "
		    "HELLO was said before" : "Bad protocol FSM state: HELLO "
		    "must come first"));
	switch (tag) {
	case WIRE_hello:
		return (on_hello(x, frame));
	case WIRE_error:
		return (on_error(x, frame));
	case WIRE_notify:
		return (on_notify(x, frame));
	case WIRE_message:
		return (on_message(x, frame));
	case WIRE_eos:
		return (on_eos(x, frame));
	default:
		(void)snprintf(x->why, sizeof(x->why), "Invalid message: %s",
		    wire_name(tag));
		return (refuse(x));
	}
}
