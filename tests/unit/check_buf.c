/* common/buf.c and common/mem.c */
#include <string.h>

#include "common/mem.h"
#include "tests/unit/unit.h"

START_TEST(test_grows)
{
	struct buf b;
	uint8_t byte;

	buf_init(&b);
	for (unsigned int i = 0; i < 10000; i++) {
		byte = (uint8_t)i;
		buf_add(&b, &byte, 1);
	}
	ck_assert_uint_eq(b.len, 10000);
	ck_assert_uint_ge(b.cap, b.len);
	for (unsigned int i = 0; i < 10000; i++)
		ck_assert_uint_eq(b.data[i], (uint8_t)i);
	buf_fini(&b);
	ck_assert_ptr_null(b.data);
	ck_assert_uint_eq(b.len, 0);
	buf_add(&b, "again", 5);	/* usable after buf_fini */
	ck_assert_mem_eq(b.data, "again", 5);
	buf_fini(&b);
}
END_TEST

START_TEST(test_nothing)
{
	struct buf b;

	buf_init(&b);
	buf_add(&b, NULL, 0);
	ck_assert_uint_eq(b.len, 0);
	buf_consume(&b, 0);
	ck_assert_str_eq(buf_str(&b), "");
	ck_assert_uint_eq(b.len, 0);
	buf_fini(&b);
	buf_fini(&b);
}
END_TEST

START_TEST(test_reserve)
{
	struct buf b;
	uint8_t *p;

	buf_init(&b);
	buf_add(&b, "ab", 2);
	p = buf_reserve(&b, 100000);
	ck_assert_ptr_eq(p, b.data + 2);
	ck_assert_uint_ge(b.cap, 100002);
	ck_assert_uint_eq(b.len, 2);
	memset(p, 'x', 100000);
	b.len += 100000;
	ck_assert_mem_eq(b.data, "abx", 3);
	/* what fits does not move */
	p = b.data;
	(void)buf_reserve(&b, b.cap - b.len);
	ck_assert_ptr_eq(p, b.data);
	buf_fini(&b);
}
END_TEST

START_TEST(test_addf)
{
	struct buf b;
	char big[300];

	memset(big, 'y', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	buf_init(&b);
	buf_addf(&b, "%d-%s", 7, "x");
	buf_addf(&b, "%s", "");
	buf_addf(&b, "/%s/", big);	/* longer than the room */
	ck_assert_uint_eq(b.len, 3 + 301);
	ck_assert_int_eq(strncmp(buf_str(&b), "7-x/yyy", 7), 0);
	ck_assert_uint_eq(strlen(buf_str(&b)), b.len);
	buf_fini(&b);
}
END_TEST

START_TEST(test_addf_exact)
{
	/* the text and its NUL around the end of the memory */
	for (size_t n = 0; n < 200; n++) {
		struct buf b;
		char text[201];

		memset(text, 'z', n);
		text[n] = '\0';
		buf_init(&b);
		buf_addf(&b, "%s", text);
		buf_addf(&b, "%s", text);
		ck_assert_uint_eq(b.len, 2 * n);
		ck_assert_uint_eq(strspn(buf_str(&b), "z"), 2 * n);
		buf_fini(&b);
	}
}
END_TEST

START_TEST(test_consume)
{
	struct buf b;

	buf_init(&b);
	buf_add(&b, "0123456789", 10);
	buf_consume(&b, 4);
	ck_assert_str_eq(buf_str(&b), "456789");
	buf_consume(&b, 6);
	ck_assert_uint_eq(b.len, 0);
	buf_add(&b, "a", 1);
	buf_clear(&b);
	ck_assert_uint_eq(b.len, 0);
	ck_assert_uint_gt(b.cap, 0);
	buf_fini(&b);
}
END_TEST

START_TEST(test_slice)
{
	struct slice s = slice_of("abc", 3);
	struct buf b;

	ck_assert_uint_eq(s.len, 3);
	buf_init(&b);
	buf_add(&b, s.data, s.len);
	ck_assert_mem_eq(buf_slice(&b).data, "abc", 3);
	ck_assert_uint_eq(buf_slice(&b).len, 3);
	buf_fini(&b);
}
END_TEST

START_TEST(test_mem)
{
	char *p, *q;

	free(xmalloc(0));
	free(xcalloc(0, 8));
	p = xcalloc(4, 4);
	for (int i = 0; i < 16; i++)
		ck_assert_int_eq(p[i], 0);
	p = xreallocarray(p, 8, 4);
	p = xrealloc(p, 0);
	free(p);
	p = xstrdup("hello");
	q = xstrndup(p, 4);
	ck_assert_str_eq(q, "hell");
	free(q);
	q = xasprintf("%s-%d", p, 1);
	ck_assert_str_eq(q, "hello-1");
	free(q);
	free(p);
}
END_TEST

UNIT_MAIN("buf", test_grows, test_nothing, test_reserve, test_addf,
    test_addf_exact, test_consume, test_slice, test_mem)
