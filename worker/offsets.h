/*
 * How far a source in Kafka has come, partition by partition, and the bytes by
 * which its records are in the journal.  No I/O: what this holds is a function
 * of the journal and part of the checkpoint.
 *
 * In the journal a partition has a number, by the order in which this worker
 * found it.  A record is u32 length (big-endian, as the framing has it), u8
 * kind, u32 number and then, for a decoder that wants all of it,
 *	i32 partition, i64 offset, i64 time in ms, u32 length of the topic,
 *	i32 of the key, i32 of the value (-1: there is none), u32 of the
 *	headers; topic, key, value, headers, each header as u32 length of the
 *	name, i32 of the value, name, value
 * in the byte order of the machine, which is the only one to read it.
 */
#ifndef WORKER_OFFSETS_H
#define WORKER_OFFSETS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "worker/progress.h"

#define OFFSETS_MOST	65536		/* partitions of one worker */
#define OFFSETS_TOPIC	249		/* bytes; Kafka's own limit */

enum kafka_kind {
	KAFKA_RECORD = 1,
	KAFKA_FOUND,		/* a partition: begin at `offset`; its end
				   was at time_ms then */
	KAFKA_LOOKED,		/* all that there were were found */
	KAFKA_MOVED,		/* nothing for us is before `offset` */
	KAFKA_END		/* for a new run its end is at time_ms */
};

struct kafka_record {
	enum kafka_kind	 kind;
	uint32_t	 number;
	int32_t		 partition;
	int64_t		 offset;
	int64_t		 time_ms;
	struct slice	 topic, key, value, headers;
	bool		 has_key, has_value;
	struct slice	 whole;		/* as for a decoder */
};

/* One partition of a topic. */
struct offset {
	char		*topic;
	int32_t		 partition;
	int64_t		 next;		/* to be read next */
	int64_t		 end;		/* where it ended when it was found */
	struct part	 part;
	/* Not in the checkpoint: */
	int64_t		 taken;		/* `next` of the one under way */
	int64_t		 told;		/* to the group */
};

struct offsets {
	struct offset	*o;		/* by number */
	uint32_t	 n;
	bool		 looked;	/* the first look is over */
};

/* Bytes of a record with its length; where it goes. */
size_t	kafka_record_size(const struct kafka_record *);
void	kafka_record_put(uint8_t *, const struct kafka_record *);
/* From bytes without the length; false: it is malformed. */
bool	kafka_record_get(struct kafka_record *, struct slice);
/* One header into bytes. */
void	kafka_header_put(struct buf *, const char *name, const void *value,
	    size_t len);

/* What an entry of the journal says.  NULL: that cannot be.  The partition
 * that it is about, or any for what is about none. */
struct offset *offsets_take(struct offsets *, const struct kafka_record *,
	    uint64_t now_ns);
struct offset *offsets_find(const struct offsets *, struct slice topic,
	    int32_t partition);
void	offsets_copy(struct offsets *to, const struct offsets *from);
void	offsets_fini(struct offsets *);
void	offsets_pack(const struct offsets *, struct buf *);
/* Adds to what is there already; -1: these are none. */
int	offsets_unpack(struct offsets *, struct slice);
/* Only those of this worker of so many. */
void	offsets_pack_of(const struct offsets *, uint32_t worker,
	    uint32_t workers, struct buf *);

/* Who reads a partition. */
static inline uint32_t
offsets_owner(int32_t partition, uint32_t workers)
{
	return ((uint32_t)partition % workers);
}

#endif
