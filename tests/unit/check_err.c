/* common/err.c */
#include <errno.h>
#include <string.h>

#include "common/err.h"
#include "tests/unit/unit.h"

START_TEST(test_set)
{
	struct err e = { ERR_NONE, "" };

	ck_assert_int_eq(err_set(&e, ERR_LIMIT, "%d of %s", 3, "x"), -1);
	ck_assert_int_eq(e.code, ERR_LIMIT);
	ck_assert_str_eq(e.text, "3 of x");
	ck_assert_int_eq(err_set(NULL, ERR_LIMIT, "x"), -1);
}
END_TEST

START_TEST(test_sys)
{
	struct err e;

	errno = ENOENT;
	ck_assert_int_eq(err_sys(&e, ERR_SYSTEM, "open %s", "f"), -1);
	ck_assert_int_eq(e.code, ERR_SYSTEM);
	ck_assert_str_eq(e.text, "open f: No such file or directory");
	ck_assert_int_eq(errno, ENOENT);
	ck_assert_int_eq(err_sys(NULL, ERR_SYSTEM, "x"), -1);
}
END_TEST

START_TEST(test_wrap)
{
	struct err e;

	err_set(&e, ERR_USER, "inner");
	ck_assert_int_eq(err_wrap(&e, "outer %d", 1), -1);
	ck_assert_int_eq(err_wrap(&e, "most"), -1);
	ck_assert_str_eq(e.text, "most: outer 1: inner");
	ck_assert_int_eq(e.code, ERR_USER);
	ck_assert_int_eq(err_wrap(NULL, "x"), -1);
}
END_TEST

START_TEST(test_cut)
{
	struct err e;
	char big[2 * ERR_TEXT];

	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_set(&e, ERR_USER, "%s", big);
	ck_assert_uint_eq(strlen(e.text), ERR_TEXT - 1);
	err_wrap(&e, "p");
	ck_assert_uint_eq(strlen(e.text), ERR_TEXT - 1);
	ck_assert_int_eq(strncmp(e.text, "p: aaa", 6), 0);
	err_wrap(&e, "%s", big);
	ck_assert_uint_eq(strlen(e.text), ERR_TEXT - 1);
	errno = EIO;
	err_sys(&e, ERR_SYSTEM, "%s", big);
	ck_assert_uint_eq(strlen(e.text), ERR_TEXT - 1);
}
END_TEST

UNIT_MAIN("err", test_set, test_sys, test_wrap, test_cut)
