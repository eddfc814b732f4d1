/* key -> partition -> worker; see part.h. */
#include <assert.h>

/* Inlined: the hash of a key is on the path of every record. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/part.h"

uint64_t
part_hash(struct slice key)
{
	return (XXH3_64bits(key.data, key.len));
}

uint64_t
part_seal(struct slice bytes, uint64_t seed)
{
	return (XXH3_64bits_withSeed(bytes.data, bytes.len, seed));
}

unsigned int
part_bits(uint32_t partitions)
{
	assert(partitions != 0 && (partitions & (partitions - 1)) == 0);
	return ((unsigned int)__builtin_ctz(partitions));
}

void
part_assign(uint16_t *table, uint32_t partitions, uint32_t workers)
{
	assert(workers > 0);
	for (uint32_t i = 0; i < partitions; i++)
		table[i] = (uint16_t)((uint64_t)i * workers / partitions);
}
