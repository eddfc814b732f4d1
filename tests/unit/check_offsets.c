/* worker/offsets.c: records of Kafka as bytes, and what they make of the
 * positions. */
#include <string.h>

#include "tests/unit/unit.h"
#include "worker/offsets.h"

static struct slice
text(const char *s)
{
	return (slice_of(s, strlen(s)));
}

static bool
is(struct slice s, const char *what)
{
	return (s.len == strlen(what) && memcmp(s.data, what, s.len) == 0);
}

static struct kafka_record
record(enum kafka_kind kind, uint32_t number, int64_t offset)
{
	struct kafka_record r = { .kind = kind, .number = number,
	    .offset = offset };

	return (r);
}

/* Without the length; in memory of exactly its size. */
static struct slice
packed(const struct kafka_record *r)
{
	uint8_t b[512];
	size_t len = kafka_record_size(r);

	ck_assert_uint_le(len, sizeof(b));
	kafka_record_put(b, r);
	ck_assert_uint_eq((size_t)b[2] << 8 | b[3], len - 4);
	return (unit_exact(b + 4, len - 4));
}

START_TEST(records)
{
	struct kafka_record r = record(KAFKA_RECORD, 7, INT64_MAX - 1), back;
	struct buf headers = { 0 };
	struct slice s;

	kafka_header_put(&headers, "trace", "12", 2);
	kafka_header_put(&headers, "none", NULL, 0);
	ck_assert_uint_eq(headers.len, 8 + 5 + 2 + 8 + 4);
	r.partition = 3;
	r.time_ms = -1;
	r.topic = text("orders");
	r.key = text("k");
	r.has_key = r.has_value = true;
	r.value = text("value");
	r.headers = buf_slice(&headers);
	s = packed(&r);
	ck_assert(kafka_record_get(&back, s));
	ck_assert_int_eq(back.kind, KAFKA_RECORD);
	ck_assert_uint_eq(back.number, 7);
	ck_assert_int_eq(back.partition, 3);
	ck_assert(back.offset == INT64_MAX - 1 && back.time_ms == -1);
	ck_assert(is(back.topic, "orders") && is(back.key, "k"));
	ck_assert(is(back.value, "value") && back.has_key && back.has_value);
	ck_assert_uint_eq(back.headers.len, headers.len);
	ck_assert_uint_eq(back.whole.len, s.len - 5);
	unit_free(s);

	/* Nothing is not the same as something empty. */
	r.has_key = false;
	r.key.len = 0;
	r.value.len = 0;
	s = packed(&r);
	ck_assert(kafka_record_get(&back, s));
	ck_assert(!back.has_key && back.has_value && back.value.len == 0);
	unit_free(s);
	buf_fini(&headers);
}
END_TEST

START_TEST(malformed_records)
{
	struct kafka_record r = record(KAFKA_RECORD, 0, 1), back;
	struct slice s, cut;
	uint8_t *b;
	size_t n;

	r.topic = text("orders");
	r.value = text("value");
	r.has_value = true;
	s = packed(&r);
	for (n = 0; n < s.len; n++) {
		cut = unit_exact(s.data, n);
		ck_assert(!kafka_record_get(&back, cut));
		unit_free(cut);
	}
	/* No byte leads anybody astray. */
	b = (uint8_t *)(uintptr_t)s.data;
	for (n = 0; n < s.len; n++) {
		b[n] ^= 0xff;
		if (kafka_record_get(&back, s))
			ck_assert_uint_le(back.topic.len + back.key.len +
			    back.value.len + back.headers.len, s.len);
		b[n] ^= 0xff;
	}
	b[0] = 0;
	ck_assert(!kafka_record_get(&back, s));
	unit_free(s);
	r.offset = -1;
	s = packed(&r);
	ck_assert(!kafka_record_get(&back, s));
	unit_free(s);
}
END_TEST

static void
find(struct offsets *t, const char *topic, int32_t partition, int64_t from)
{
	struct kafka_record r = record(KAFKA_FOUND, t->n, from);

	r.topic = text(topic);
	r.partition = partition;
	r.time_ms = from + 10;
	ck_assert_ptr_nonnull(offsets_take(t, &r, 5));
}

START_TEST(positions)
{
	struct offsets t = { 0 }, copy = { 0 };
	struct kafka_record r;
	struct offset *o;

	find(&t, "a", 0, 0);
	find(&t, "a", 1, 100);
	find(&t, "b", 1, 7);
	ck_assert(!t.looked);
	r = record(KAFKA_LOOKED, 0, 0);
	ck_assert_ptr_nonnull(offsets_take(&t, &r, 5));
	ck_assert(t.looked);
	o = offsets_find(&t, text("a"), 1);
	ck_assert_ptr_eq(o, &t.o[1]);
	ck_assert(o->next == 100 && o->end == 110);
	ck_assert_uint_eq(o->part.heard_ns, 5);
	ck_assert_ptr_null(offsets_find(&t, text("b"), 0));

	/* Offsets may be left out, and do not come twice. */
	r = record(KAFKA_RECORD, 1, 104);
	ck_assert_ptr_eq(offsets_take(&t, &r, 6), o);
	ck_assert(o->next == 105);
	ck_assert_ptr_null(offsets_take(&t, &r, 6));
	r = record(KAFKA_MOVED, 1, 106);
	ck_assert_ptr_eq(offsets_take(&t, &r, 6), o);
	ck_assert(o->next == 106);
	r = record(KAFKA_END, 1, 106);
	r.time_ms = 500;
	ck_assert_ptr_eq(offsets_take(&t, &r, 6), o);
	ck_assert(o->next == 106 && o->end == 500);
	r = record(KAFKA_RECORD, 3, 106);
	ck_assert_ptr_null(offsets_take(&t, &r, 6));

	/* Found in order, once, and with a name. */
	r = record(KAFKA_FOUND, 3, 0);
	ck_assert_ptr_null(offsets_take(&t, &r, 6));
	r.topic = text("a");
	r.partition = 1;
	ck_assert_ptr_null(offsets_take(&t, &r, 6));
	r.partition = 2;
	r.number = 4;
	ck_assert_ptr_null(offsets_take(&t, &r, 6));

	offsets_copy(&copy, &t);
	ck_assert_uint_eq(copy.n, 3);
	ck_assert(copy.looked && copy.o[1].next == 106);
	offsets_fini(&copy);
	offsets_fini(&t);
	ck_assert_uint_eq(t.n, 0);
}
END_TEST

START_TEST(saved)
{
	struct offsets t = { 0 }, u = { 0 }, half[2] = { { 0 } };
	struct buf b = { 0 };
	struct slice s;
	uint32_t w;
	size_t n;

	find(&t, "a", 0, 10);
	find(&t, "a", 1, 11);
	find(&t, "bb", 2, 12);
	t.looked = true;
	t.o[1].part.watermark = 99;
	offsets_pack(&t, &b);
	ck_assert_int_eq(offsets_unpack(&u, buf_slice(&b)), 0);
	ck_assert_uint_eq(u.n, 3);
	ck_assert(u.looked && u.o[2].next == 12 && u.o[2].end == 22);
	ck_assert_uint_eq(u.o[1].part.watermark, 99);
	/* The same once more is too much. */
	ck_assert_int_eq(offsets_unpack(&u, buf_slice(&b)), -1);
	offsets_fini(&u);
	for (n = 1; n < b.len; n++) {
		s = unit_exact(b.data, n);
		ck_assert_int_eq(offsets_unpack(&u, s), -1);
		offsets_fini(&u);
		unit_free(s);
	}
	ck_assert_int_eq(offsets_unpack(&u, slice_of("", 0)), 0);

	/* Spread over two workers, and together again. */
	for (w = 0; w < 2; w++) {
		buf_clear(&b);
		offsets_pack_of(&t, w, 2, &b);
		ck_assert_int_eq(offsets_unpack(&half[w], buf_slice(&b)), 0);
		ck_assert_uint_eq(half[w].n, w == 0 ? 2 : 1);
		ck_assert_int_eq(offsets_unpack(&u, buf_slice(&b)), 0);
		offsets_fini(&half[w]);
	}
	ck_assert_uint_eq(u.n, 3);
	ck_assert(offsets_find(&u, text("a"), 1)->next == 11);
	offsets_fini(&u);
	offsets_fini(&t);
	buf_fini(&b);
}
END_TEST

UNIT_MAIN("offsets", records, malformed_records, positions, saved)
