/*
 * A log-linear histogram of nanoseconds: 32 bins for each power of two, so
 * that what is read from it is at most three in a hundred too large.
 */
#ifndef TESTS_BENCH_HIST_H
#define TESTS_BENCH_HIST_H

#include <stddef.h>
#include <stdint.h>

#define HIST_SUB	32
#define HIST_BINS	(60 * HIST_SUB)
/* A percentile is said only with so many samples beyond it. */
#define HIST_BEYOND	10

struct hist {
	uint64_t	count;
	uint64_t	max;
	uint64_t	bins[HIST_BINS];
};

static inline size_t
hist_bin(uint64_t v)
{
	int	shift;

	if (v < HIST_SUB)
		return ((size_t)v);
	shift = 58 - __builtin_clzll(v);	/* v >> shift is 32 to 63 */
	return ((size_t)(shift + 1) * HIST_SUB +
	    (size_t)((v >> shift) - HIST_SUB));
}

/* The first value beyond a bin. */
static inline uint64_t
hist_edge(size_t bin)
{
	if (bin < HIST_SUB)
		return (bin + 1);
	return ((uint64_t)(bin % HIST_SUB + HIST_SUB + 1) <<
	    (bin / HIST_SUB - 1));
}

static inline void
hist_add(struct hist *h, uint64_t v)
{
	h->count++;
	if (v > h->max)
		h->max = v;
	h->bins[hist_bin(v)]++;
}

/* Of so many in a million; 0 when too few are beyond. */
static inline uint64_t
hist_at(const struct hist *h, uint64_t ppm)
{
	uint64_t	sum = 0, rank = h->count / 1000000 * ppm +
	    h->count % 1000000 * ppm / 1000000;
	size_t		i;

	if (h->count - rank < HIST_BEYOND)
		return (0);
	for (i = 0; i < HIST_BINS; i++)
		if ((sum += h->bins[i]) > rank)
			break;
	return (hist_edge(i) < h->max ? hist_edge(i) : h->max);
}

#endif
