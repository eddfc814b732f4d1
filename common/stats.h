/*
 * One page per worker, shared memory made by the supervisor (memfd, received
 * with `start`): the worker counts, the supervisor reads; costs no message
 * and survives a crash.  All members are written by the worker alone, with
 * relaxed atomic stores, and never reset in one life of the supervisor.
 * Behind the page the file takes the stacks that its interpreter writes.
 */
#ifndef COMMON_STATS_H
#define COMMON_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#define STATS_MAGIC	0x57535431	/* "WST1" */
#define STATS_SIZE	4096

#define STATS_TABLE(S)							\
	S(turns, "turns of the event loop; stands still in a hang")	\
	S(pid, "process id")						\
	S(in_user, "1 while user code works on a record, 2 while other " \
	    "user code runs")						\
	S(in_stage, "number of the stage whose user code runs, plus 1")	\
	S(records_in, "records taken from sources")			\
	S(frames_in, "frames taken from other workers")			\
	S(records_out, "records given to sinks")			\
	S(bytes_in, "bytes taken from sources")				\
	S(bytes_out, "bytes accepted by sinks")				\
	S(journal_head, "position up to which the journal is freed")	\
	S(journal_done, "position up to which it is processed")		\
	S(journal_tail, "position up to which it is written")		\
	S(journal_stable, "position that a power loss does not go behind") \
	S(checkpoints, "checkpoints committed")				\
	S(checkpoint_position, "position of the last one")		\
	S(keys, "keys with state")					\
	S(errors, "exceptions of user functions")			\
	S(skipped, "records skipped after an exception")		\
	S(late, "records that came too late for their windows")		\
	S(dead_letters, "records given to the dead letters")		\
	S(set_aside, "those of them that killed the process twice")	\
	S(outbox_bytes, "bytes in outboxes")				\
	S(connections, "open client connections")			\
	S(sources_open, "sources that this worker reads alone, not ended") \
	S(repeats, "records that may have been sent twice")		\
	S(nondeterministic, "entries whose replay gave something else")	\
	S(kafka_lag, "records in Kafka that are still to be read here")

/* Bin i counts records whose turn took less than 2^i ns, and no less than
 * half of that; the last one has all that are longer. */
#define STATS_BINS	65

#define STATS_MEMBER(name, text)	_Atomic uint64_t name;
struct stats {
	uint32_t	magic;
	uint32_t	worker;
	STATS_TABLE(STATS_MEMBER)
	_Atomic uint64_t latency[STATS_BINS];
};
#undef STATS_MEMBER

#define STAT_SET(s, f, v)	\
	atomic_store_explicit(&(s)->f, (v), memory_order_relaxed)
#define STAT_GET(s, f)		\
	atomic_load_explicit(&(s)->f, memory_order_relaxed)
#define STAT_ADD(s, f, v)	STAT_SET(s, f, STAT_GET(s, f) + (v))

#endif
