/* common/part.c: part of the on-disk contract. */
#include <stdio.h>
#include <string.h>

#include "common/part.h"
#include "tests/unit/unit.h"

static uint64_t
hash(const char *s)
{
	return (part_hash(slice_of(s, strlen(s))));
}

/* These values are on people's disks: they must never change. */
START_TEST(test_contract)
{
	ck_assert_uint_eq(hash(""), 0x2d06800538d394c2);
	ck_assert_uint_eq(hash("a"), 0xe6c632b61e964e1f);
	ck_assert_uint_eq(hash("abc"), 0x78af5f94892f3950);
	ck_assert_uint_eq(hash("wallaroo"), 0x8adcb03987d2cfb4);
	ck_assert_uint_eq(part_of(0x2d06800538d394c2, 8), 0x2d);
	ck_assert_uint_eq(part_of(UINT64_MAX, 16), 65535);
	ck_assert_uint_eq(part_of(UINT64_MAX, 1), 1);
	ck_assert_uint_eq(part_of(UINT64_MAX, 0), 0);
}
END_TEST

START_TEST(test_bits)
{
	for (unsigned int i = 0; i <= 16; i++)
		ck_assert_uint_eq(part_bits(1U << i), i);
}
END_TEST

/* Every partition has an owner, in contiguous runs, as even as can be. */
START_TEST(test_assign)
{
	static const uint32_t workers[] = { 1, 2, 3, 5, 7, 16, 255, 256 };
	uint16_t table[1024];
	uint32_t n[256];

	for (size_t k = 0; k < sizeof(workers) / sizeof(workers[0]); k++)
		for (uint32_t parts = 256; parts <= 1024; parts *= 2) {
			uint32_t w = workers[k];

			memset(n, 0, sizeof(n));
			memset(table, 0xff, sizeof(table));
			part_assign(table, parts, w);
			for (uint32_t i = 0; i < parts; i++) {
				ck_assert_uint_lt(table[i], w);
				if (i > 0)
					ck_assert_uint_ge(table[i],
					    table[i - 1]);
				n[table[i]]++;
			}
			for (uint32_t i = 0; i < w; i++) {
				ck_assert_uint_ge(n[i], parts / w);
				ck_assert_uint_le(n[i], parts / w + 1);
			}
		}
}
END_TEST

START_TEST(test_assign_small)
{
	uint16_t table[4];

	part_assign(table, 1, 1);
	ck_assert_uint_eq(table[0], 0);
	part_assign(table, 4, 3);
	ck_assert_uint_eq(table[0], 0);
	ck_assert_uint_eq(table[1], 0);
	ck_assert_uint_eq(table[2], 1);
	ck_assert_uint_eq(table[3], 2);
}
END_TEST

/* Keys of all kinds fill 256 partitions evenly enough. */
START_TEST(test_spread)
{
	uint32_t n[256] = { 0 }, most = 0, least = UINT32_MAX;
	char key[32];

	for (int i = 0; i < 256000; i++) {
		(void)snprintf(key, sizeof(key), "key-%d", i);
		n[part_of(hash(key), 8)]++;
	}
	for (int i = 0; i < 256; i++) {
		most = n[i] > most ? n[i] : most;
		least = n[i] < least ? n[i] : least;
	}
	ck_assert_uint_gt(least, 800);
	ck_assert_uint_lt(most, 1200);
}
END_TEST

UNIT_MAIN("part", test_contract, test_bits, test_assign, test_assign_small,
    test_spread)
