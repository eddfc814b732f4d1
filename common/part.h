/*
 * key -> partition -> worker.  The partition is the top bits of XXH3 of the
 * key with seed 0: part of the on-disk contract.  Pure functions.
 */
#ifndef COMMON_PART_H
#define COMMON_PART_H

#include <stdint.h>

#include "common/buf.h"

uint64_t	part_hash(struct slice key);
/* The same family, for checksums that hang together by their seeds. */
uint64_t	part_seal(struct slice bytes, uint64_t seed);
/* bits = log2 of the number of partitions, 0..16 */
static inline uint32_t
part_of(uint64_t hash, unsigned int bits)
{
	return (bits == 0 ? 0 : (uint32_t)(hash >> (64 - bits)));
}
unsigned int	part_bits(uint32_t partitions);	/* log2 of a power of two */
/* Fill table[partitions] with owners 0..workers-1 in contiguous runs. */
void		part_assign(uint16_t *table, uint32_t partitions,
		    uint32_t workers);

#endif
