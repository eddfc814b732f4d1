/* common/clock.c */
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/unit/unit.h"

/*
 * This program has clocks of its own, as the worker's executable has: what
 * clock.c answers must not be theirs.
 */
static int lies;

int clock_gettime(clockid_t, struct timespec *);
ssize_t getrandom(void *, size_t, unsigned int);

int
clock_gettime(clockid_t id, struct timespec *ts)
{
	(void)id;
	lies++;
	ts->tv_sec = 1;
	ts->tv_nsec = 2;
	return (0);
}

ssize_t
getrandom(void *p, size_t n, unsigned int flags)
{
	(void)flags;
	lies++;
	memset(p, 'z', n);
	return ((ssize_t)n);
}

START_TEST(test_real)
{
	uint64_t wall, mono;
	uint8_t bytes[64];
	size_t z = 0;
	int before = lies;

	wall = clock_wall_ns();
	mono = clock_mono_ns();
	clock_random(bytes, sizeof(bytes));
	ck_assert_int_eq(lies, before);
	ck_assert_uint_gt(wall, 1600000000ULL * 1000000000);
	ck_assert_uint_gt(mono, 0);
	ck_assert_uint_ge(clock_mono_ns(), mono);
	for (size_t i = 0; i < sizeof(bytes); i++)
		z += bytes[i] == 'z';
	ck_assert_uint_lt(z, 32);
}
END_TEST

START_TEST(test_moves)
{
	uint64_t mono = clock_mono_ns(), wall = clock_wall_ns();

	usleep(2000);
	ck_assert_uint_ge(clock_mono_ns() - mono, 1000000);
	ck_assert_uint_gt(clock_wall_ns(), wall);
}
END_TEST

START_TEST(test_random)
{
	uint8_t a[32], b[32];

	clock_random(a, sizeof(a));
	clock_random(b, sizeof(b));
	ck_assert_mem_ne(a, b, sizeof(a));
	memset(a, 7, sizeof(a));
	clock_random(a, 0);
	ck_assert_uint_eq(a[0], 7);
}
END_TEST

START_TEST(test_boot_id)
{
	struct err err;
	uint8_t a[16], b[16], zero[16] = { 0 };

	memset(a, 1, sizeof(a));
	memset(b, 2, sizeof(b));
	ck_assert_int_eq(clock_boot_id(a, &err), 0);
	ck_assert_int_eq(clock_boot_id(b, &err), 0);
	ck_assert_mem_eq(a, b, sizeof(a));
	if (access("/proc/sys/kernel/random/boot_id", R_OK) == 0)
		ck_assert_mem_ne(a, zero, sizeof(a));
	else
		ck_assert_mem_eq(a, zero, sizeof(a));
}
END_TEST

UNIT_MAIN("clock", test_real, test_moves, test_random, test_boot_id)
