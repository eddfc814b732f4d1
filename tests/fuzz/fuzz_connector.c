/*
 * Target for the connector protocol: what a connector may send to a source,
 * each frame by itself, and streams as a checkpoint has them.  Also what
 * journal and checkpoint have of a source in Kafka.
 */
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/mp.h"
#include "tests/fuzz/fuzz_worker.h"
#include "worker/committer.h"
#include "worker/connector.h"
#include "worker/connector_wire.h"
#include "worker/offsets.h"

static struct topo_source source[] = {
	{ .name = "feed", .kind = SOURCE_CONNECTOR,
	    .framing = FRAMING_CONNECTOR, .header_length = 4,
	    .header_big = true, .max_size = 200, .cookie = NULL,
	    .max_credits = 10, .refill_credits = 5 },
};

/* What was read is written as it was, but for what need not be there. */
#define TRY(name, tag)							\
	case (tag): {							\
		struct wire_##name m;					\
									\
		if (!wire_get_##name(&m, s))				\
			break;						\
		wire_body_##name(&b, &m);				\
		fuzz_check((b.len == s.len &&				\
		    memcmp(b.data, s.data, s.len) == 0) ||		\
		    ((tag) == WIRE_restart && s.len == 1));		\
		break;							\
	}

static void
one_frame(struct slice s)
{
	struct wire_reply_uncommitted r;
	struct buf b = { 0 };
	struct wire_ack a;
	struct slice id;
	uint64_t v[2];
	uint32_t i;

	switch (wire_tag(s)) {
	WIRE_TABLE(TRY)
	default:
		break;
	}
	if (wire_get_ack(&a, s))
		for (i = 0; i < a.points.n; i++)
			wire_pair(&a.points, i, v);
	if (wire_get_reply_uncommitted(&r, s))
		for (i = r.ids.n; i > 0; i--)
			fuzz_check(wire_next_text(&r.ids, &id));
	buf_fini(&b);
}

static void
saved(struct slice s)
{
	struct streams t = { NULL }, u = { NULL };
	struct buf b = { 0 }, c = { 0 };

	if (streams_unpack(&t, s) == 0) {
		streams_pack(&t, &b);
		fuzz_check(streams_unpack(&u, buf_slice(&b)) == 0);
		streams_pack(&u, &c);
		fuzz_check(b.len == c.len &&
		    memcmp(b.data, c.data, b.len) == 0);
	}
	streams_fini(&t);
	streams_fini(&u);
	buf_fini(&b);
	buf_fini(&c);
}

/* Positions in Kafka, and a record as the journal has it. */
static void
positions(struct slice s)
{
	struct offsets t = { 0 }, u = { 0 };
	struct buf b = { 0 }, c = { 0 };
	struct kafka_record r;

	if (s.len > 0 && offsets_unpack(&t, s) == 0) {
		offsets_pack(&t, &b);
		fuzz_check(offsets_unpack(&u, buf_slice(&b)) == 0);
		offsets_pack(&u, &c);
		fuzz_check(b.len == c.len &&
		    memcmp(b.data, c.data, b.len) == 0);
	}
	if (kafka_record_get(&r, s))
		(void)offsets_take(&t, &r, 0);
	offsets_fini(&t);
	offsets_fini(&u);
	buf_fini(&b);
	buf_fini(&c);
}

/* What a checkpoint says of transactions. */
static void
transactions(struct slice s)
{
	struct txns t = { NULL, 0 }, u = { NULL, 0 };
	struct buf b = { 0 }, c = { 0 };
	struct mp m;

	mp_init(&m, s);
	txns_unpack(&t, &m);
	if (mp_end(&m)) {
		txns_pack(&t, &b);
		mp_init(&m, buf_slice(&b));
		txns_unpack(&u, &m);
		fuzz_check(mp_end(&m));
		txns_pack(&u, &c);
		fuzz_check(b.len == c.len &&
		    memcmp(b.data, c.data, b.len) == 0);
	}
	txns_fini(&t);
	txns_fini(&u);
	buf_fini(&b);
	buf_fini(&c);
}

static void
hello(struct worker *w, uint64_t conn, uint64_t *off)
{
	static const char frame[] = "\0\0\0\016\0\0\0050.0.1\0\0\0\0\0\0";
	uint32_t zero = 0;

	(void)fuzz_put(w, ENTRY_OPEN, conn, 0, slice_of(&zero, 4), 0);
	(void)fuzz_put(w, ENTRY_BYTES, conn, 0, slice_of(frame, 18), 0);
	*off = 18;
}

/*
 * A frame by itself or the streams, or what two connections send: u8 flags,
 * then pieces, each u8 connection and length, bytes.  Cut as it is, or byte
 * by byte, it means the same.
 */
static struct worker *
talk(struct fuzz_in in, bool greet, bool bytewise)
{
	struct topo topo = fuzz_pipeline;
	uint64_t off[2] = { 0, 0 };
	struct worker *w;
	size_t len, step;
	unsigned int k;

	source[0].cookie = (char *)(uintptr_t)"";
	topo.sources = source;
	topo.nsources = 1;
	w = fuzz_begin(&topo, 1);
	w->conf.connector_streams = 4;
	for (k = 0; k < 2; k++)
		if (greet)
			hello(w, k + 1, &off[k]);
		else
			(void)fuzz_put(w, ENTRY_OPEN, k + 1, 0,
			    slice_of("\0\0\0\0", 4), 0);
	while (in.n > 1) {
		k = (unsigned int)fuzz_number(&in, 1);
		len = k >> 1;
		k &= 1;
		if (len > in.n)
			len = in.n;
		while (len > 0) {
			step = bytewise ? 1 : len;
			if (!fuzz_put(w, ENTRY_BYTES, k + 1, off[k],
			    slice_of(in.p, step), 0))
				break;
			off[k] += step;
			in.p += step;
			in.n -= step;
			len -= step;
		}
		if (len > 0)
			break;
	}
	fuzz_check(fuzz_process(w));
	return (w);
}

void
fuzz_connector(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	struct buf packed[2] = { { 0 }, { 0 } };
	struct in_conn *c[2];
	struct worker *w[2];
	uint64_t flags = fuzz_number(&in, 1), id;
	int i;

	if (flags & 1) {
		one_frame(slice_of(in.p, in.n));
		return;
	}
	if (flags & 2) {
		saved(slice_of(in.p, in.n));
		return;
	}
	if (flags & 8) {
		transactions(slice_of(in.p, in.n));
		return;
	}
	if (flags & 16) {
		positions(slice_of(in.p, in.n));
		return;
	}
	if (in.n > 400)
		in.n = 400;
	for (i = 0; i < 2; i++) {
		w[i] = talk(in, flags & 4, i == 1);
		streams_pack(&w[i]->a.sources[0].streams, &packed[i]);
	}
	fuzz_check(packed[0].len == packed[1].len &&
	    memcmp(packed[0].data, packed[1].data, packed[0].len) == 0);
	for (id = 1; id <= 2; id++) {
		for (i = 0; i < 2; i++)
			HASH_FIND(hh, w[i]->a.conns, &id, sizeof(id), c[i]);
		fuzz_check(c[0]->bad == c[1]->bad &&
		    c[0]->frames == c[1]->frames &&
		    c[0]->reply.len == c[1]->reply.len &&
		    (c[0]->reply.len == 0 || memcmp(c[0]->reply.data,
		    c[1]->reply.data, c[0]->reply.len) == 0));
	}
	fuzz_check(w[0]->a.to_sink[0].data.len ==
	    w[1]->a.to_sink[0].data.len);
	for (i = 0; i < 2; i++) {
		buf_fini(&packed[i]);
		fuzz_end(w[i]);
	}
}
