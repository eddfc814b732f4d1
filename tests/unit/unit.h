/* What every unit test program needs; included by one .c file each. */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <check.h>
#include <stdlib.h>

#include "common/buf.h"

/* A program is one suite: UNIT_MAIN("name", test_a, test_b, ...) */
#define UNIT_MAIN(name, ...)						\
int									\
main(void)								\
{									\
	const TTest *const tests[] = { __VA_ARGS__ };			\
	Suite *suite = suite_create(name);				\
	TCase *tcase = tcase_create(name);				\
	SRunner *runner;						\
	int failed;							\
									\
	for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)	\
		tcase_add_test(tcase, tests[i]);			\
	tcase_set_timeout(tcase, 60);					\
	suite_add_tcase(suite, tcase);					\
	runner = srunner_create(suite);					\
	srunner_run_all(runner, CK_ENV);				\
	failed = srunner_ntests_failed(runner);				\
	failed += srunner_ntests_run(runner) == 0;			\
	srunner_free(runner);						\
	return (failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE);		\
}

/* The same bytes in memory of exactly their size: reading beyond is seen by
 * valgrind and AddressSanitizer. */
static inline struct slice
unit_exact(const void *p, size_t n)
{
	uint8_t *copy = malloc(n == 0 ? 1 : n);

	ck_assert_ptr_nonnull(copy);
	for (size_t i = 0; i < n; i++)
		copy[i] = ((const uint8_t *)p)[i];
	return (slice_of(copy, n));
}

static inline void
unit_free(struct slice s)
{
	free((void *)(uintptr_t)s.data);
}

/* Numbers that look random and are the same in every run. */
static inline uint64_t
unit_random(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return (x ^ x >> 31);
}

#endif
