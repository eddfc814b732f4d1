/* common/mp.c: what the packer writes the cursor reads, and nothing else. */
#include <math.h>
#include <string.h>

#include "common/mp.h"
#include "tests/unit/unit.h"

static struct mp
cursor(const struct buf *b)
{
	struct mp c;

	mp_init(&c, buf_slice(b));
	return (c);
}

/* Values at each border between encodings. */
static const uint64_t borders[] = { 0, 1, 127, 128, 255, 256, 65535, 65536,
	UINT32_MAX, 1ULL << 32, INT64_MAX, 1ULL << 63, UINT64_MAX };

START_TEST(test_uint)
{
	for (size_t i = 0; i < sizeof(borders) / sizeof(borders[0]); i++) {
		struct buf b;
		struct mp c;

		buf_init(&b);
		mp_put_uint(&b, borders[i]);
		c = cursor(&b);
		ck_assert_int_eq(mp_peek(&c), MP_UINT);
		ck_assert_uint_eq(mp_get_uint(&c, UINT64_MAX), borders[i]);
		ck_assert(mp_end(&c));
		c = cursor(&b);
		ck_assert_uint_eq(mp_get_uint(&c, borders[i]), borders[i]);
		ck_assert(mp_end(&c));
		c = cursor(&b);
		if (borders[i] > 0) {
			ck_assert_uint_eq(mp_get_uint(&c, borders[i] - 1), 0);
			ck_assert(!mp_ok(&c));
		}
		c = cursor(&b);
		if (borders[i] <= INT64_MAX)
			ck_assert_int_eq(mp_get_int(&c), (int64_t)borders[i]);
		else
			ck_assert_int_eq(mp_get_int(&c), 0);
		ck_assert_int_eq(mp_ok(&c), borders[i] <= INT64_MAX);
		buf_fini(&b);
	}
}
END_TEST

START_TEST(test_int)
{
	static const int64_t v[] = { 0, -1, -32, -33, -128, -129, -32768,
		-32769, INT32_MIN, (int64_t)INT32_MIN - 1, INT64_MIN, 5,
		INT64_MAX };

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		struct buf b;
		struct mp c;

		buf_init(&b);
		mp_put_int(&b, v[i]);
		c = cursor(&b);
		ck_assert_int_eq(mp_peek(&c), v[i] < 0 ? MP_INT : MP_UINT);
		ck_assert_int_eq(mp_get_int(&c), v[i]);
		ck_assert(mp_end(&c));
		c = cursor(&b);
		(void)mp_get_uint(&c, UINT64_MAX);
		ck_assert_int_eq(mp_ok(&c), v[i] >= 0);
		buf_fini(&b);
	}
}
END_TEST

START_TEST(test_scalars)
{
	struct buf b;
	struct mp c;

	buf_init(&b);
	mp_put_bool(&b, true);
	mp_put_bool(&b, false);
	mp_put_nil(&b);
	mp_put_double(&b, -1.5);
	mp_put_double(&b, HUGE_VAL);
	c = cursor(&b);
	ck_assert_int_eq(mp_peek(&c), MP_BOOL);
	ck_assert(mp_get_bool(&c));
	ck_assert(!mp_get_bool(&c));
	ck_assert_int_eq(mp_peek(&c), MP_NIL);
	mp_skip(&c);
	ck_assert_int_eq(mp_peek(&c), MP_DOUBLE);
	ck_assert(mp_get_double(&c) == -1.5);
	ck_assert(isinf(mp_get_double(&c)));
	ck_assert(mp_end(&c));
	ck_assert_int_eq(mp_peek(&c), MP_NONE);
	/* a float of 4 bytes, as others may write */
	mp_init(&c, slice_of("\xca\x3f\xc0\x00\x00", 5));
	ck_assert(mp_get_double(&c) == 1.5);
	ck_assert(mp_end(&c));
	buf_fini(&b);
}
END_TEST

START_TEST(test_bytes)
{
	static const size_t n[] = { 0, 1, 31, 32, 255, 256, 65535, 65536,
		100000 };
	char *text = calloc(1, 100001);

	memset(text, 's', 100000);
	for (size_t i = 0; i < sizeof(n) / sizeof(n[0]); i++) {
		struct slice s;
		struct buf b;
		struct mp c;
		char *dup;

		buf_init(&b);
		mp_put_strn(&b, text, n[i]);
		mp_put_bin(&b, text, n[i]);
		mp_put_str(&b, "end");
		c = cursor(&b);
		ck_assert_int_eq(mp_peek(&c), MP_STR);
		s = mp_get_str(&c);
		ck_assert_uint_eq(s.len, n[i]);
		ck_assert_mem_eq(n[i] == 0 ? (const void *)"" : s.data, text,
		    n[i]);
		ck_assert_int_eq(mp_peek(&c), MP_BIN);
		s = mp_get_bin(&c);
		ck_assert_uint_eq(s.len, n[i]);
		dup = mp_get_strdup(&c);
		ck_assert_str_eq(dup, "end");
		free(dup);
		ck_assert(mp_end(&c));
		c = cursor(&b);
		(void)mp_get_bin(&c);	/* a str is no bin */
		ck_assert(!mp_ok(&c));
		buf_fini(&b);
	}
	free(text);
}
END_TEST

START_TEST(test_strdup_nul)
{
	struct buf b;
	struct mp c;

	buf_init(&b);
	mp_put_strn(&b, "a\0b", 3);
	c = cursor(&b);
	ck_assert_ptr_null(mp_get_strdup(&c));
	ck_assert(!mp_ok(&c));
	buf_clear(&b);
	mp_put_str(&b, "");
	c = cursor(&b);
	free(mp_get_strdup(&c));
	ck_assert(mp_end(&c));
	buf_fini(&b);
}
END_TEST

/* Counts and lengths that claim more than there is. */
START_TEST(test_claims)
{
	static const char *const bad[] = {
		"\xdd\x10\x00\x00\x00\x01",	/* array of 2^28, 1 there */
		"\xdd\xff\xff\xff\xff\x01",
		"\xdf\xff\xff\xff\xff\x01",	/* map */
		"\xdf\x80\x00\x00\x00\x01",	/* twice this is 2^32 */
		"\xc6\xff\xff\xff\xff\x01",	/* bin */
		"\xdb\xff\xff\xff\xff\x01",	/* str */
		"\xc9\xff\xff\xff\xff\x01",	/* ext */
		"\xd8\x01\x01\x01\x01\x01",	/* ext of 16 */
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct slice s = unit_exact(bad[i], 6);
		struct mp c;

		mp_init(&c, s);
		mp_skip(&c);
		ck_assert_msg(!mp_ok(&c), "%zu", i);
		mp_init(&c, s);
		ck_assert_uint_eq(mp_get_array(&c), 0);
		ck_assert(!mp_ok(&c));
		mp_init(&c, s);
		ck_assert_uint_eq(mp_get_map(&c), 0);
		ck_assert(!mp_ok(&c));
		mp_init(&c, s);
		ck_assert_uint_eq(mp_get_bin(&c).len, 0);
		ck_assert(!mp_ok(&c));
		mp_init(&c, s);
		ck_assert_uint_eq(mp_get_str(&c).len, 0);
		ck_assert(!mp_ok(&c));
		unit_free(s);
	}
}
END_TEST

START_TEST(test_bad_stays_bad)
{
	struct mp c;

	mp_init(&c, slice_of("\xc0\x01\xa1x\x92\x01\x02", 7));
	ck_assert_uint_eq(mp_get_uint(&c, UINT64_MAX), 0);	/* is nil */
	ck_assert_int_eq(mp_peek(&c), MP_NONE);
	ck_assert_uint_eq(mp_get_uint(&c, UINT64_MAX), 0);
	ck_assert_int_eq(mp_get_int(&c), 0);
	ck_assert_uint_eq(mp_get_str(&c).len, 0);
	ck_assert_uint_eq(mp_get_array(&c), 0);
	ck_assert_uint_eq(mp_get_map(&c), 0);
	ck_assert(!mp_get_bool(&c));
	ck_assert(mp_get_double(&c) == 0);
	ck_assert_ptr_null(mp_get_strdup(&c));
	mp_skip(&c);
	ck_assert(!mp_ok(&c));
	ck_assert(!mp_end(&c));
}
END_TEST

START_TEST(test_empty)
{
	struct mp c;

	mp_init(&c, slice_of(NULL, 0));
	ck_assert(mp_ok(&c));
	ck_assert(mp_end(&c));
	ck_assert_int_eq(mp_peek(&c), MP_NONE);
	mp_skip(&c);
	ck_assert(!mp_ok(&c));
}
END_TEST

START_TEST(test_depth)
{
	for (int depth = 1; depth <= 40; depth++) {
		struct buf b;
		struct mp c;

		buf_init(&b);
		for (int i = 1; i < depth; i++)
			mp_put_array(&b, 1);
		mp_put_nil(&b);
		c = cursor(&b);
		mp_skip(&c);
		ck_assert_int_eq(mp_ok(&c), depth <= 32);
		if (depth <= 32)
			ck_assert(mp_end(&c));
		buf_fini(&b);
	}
}
END_TEST

/* One of everything: skipped whole, and refused at every truncation. */
START_TEST(test_skip)
{
	struct buf b;
	struct slice s;
	struct mp c;

	buf_init(&b);
	mp_put_array(&b, 9);
	mp_put_map(&b, 2);
	mp_put_str(&b, "k");
	mp_put_uint(&b, 300);
	mp_put_int(&b, -70000);
	mp_put_array(&b, 0);
	mp_put_bin(&b, "0123456789", 10);
	mp_put_nil(&b);
	mp_put_bool(&b, true);
	mp_put_double(&b, 2.5);
	buf_add(&b, "\xc7\x03\x05" "abc", 6);		/* ext 8 */
	buf_add(&b, "\xd4\x05x", 3);			/* fixext 1 */
	buf_add(&b, "\xd8\x05" "0123456789abcdef", 18);	/* fixext 16 */
	buf_add(&b, "\xc9\0\0\0\0\x05", 6);		/* ext 32, empty */
	c = cursor(&b);
	mp_skip(&c);
	ck_assert(mp_end(&c));
	for (size_t n = 0; n < b.len; n++) {
		s = unit_exact(b.data, n);
		mp_init(&c, s);
		mp_skip(&c);
		ck_assert_msg(!mp_ok(&c), "%zu", n);
		unit_free(s);
	}
	buf_fini(&b);
}
END_TEST

/* Every byte as the first of a value, with every number of bytes after it:
 * the cursor stays inside, whatever it decides. */
START_TEST(test_all_first_bytes)
{
	for (int first = 0; first < 256; first++)
		for (size_t n = 1; n <= 20; n++) {
			uint8_t bytes[20] = { 0 };
			struct slice s;
			struct mp c;

			bytes[0] = (uint8_t)first;
			s = unit_exact(bytes, n);
			mp_init(&c, s);
			mp_skip(&c);
			if (mp_ok(&c))
				ck_assert(c.p <= c.end);
			if (first == 0xc1)
				ck_assert(!mp_ok(&c));
			unit_free(s);
		}
}
END_TEST

START_TEST(test_noise)
{
	uint64_t state = 1;
	size_t good = 0;

	for (int i = 0; i < 200000; i++) {
		uint8_t bytes[24];
		size_t n = unit_random(&state) % sizeof(bytes);
		struct slice s;
		struct mp c;

		for (size_t k = 0; k < n; k++)
			bytes[k] = (uint8_t)(unit_random(&state) >> 20);
		s = unit_exact(bytes, n);
		mp_init(&c, s);
		while (mp_ok(&c) && !mp_end(&c))
			mp_skip(&c);
		good += mp_end(&c);
		unit_free(s);
	}
	ck_assert_uint_gt(good, 0);
}
END_TEST

UNIT_MAIN("mp", test_uint, test_int, test_scalars, test_bytes,
    test_strdup_nul, test_claims, test_bad_stays_bad, test_empty, test_depth,
    test_skip, test_all_first_bytes, test_noise)
