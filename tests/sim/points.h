/*
 * Points between which a process may be killed: before and after each of
 * these.  First system calls, then what only changes a mapped file or a
 * database (wrapped by the linker, see point.c), then the fault points that
 * the programs declare themselves.
 */
#ifndef TESTS_SIM_POINTS_H
#define TESTS_SIM_POINTS_H

#include "common/fault.def"

#define POINT_CALLS(P)							\
	P(open) P(close) P(read) P(write) P(pread) P(pwrite) P(writev)	\
	P(unlink) P(fallocate) P(ftruncate) P(fsync) P(mmap)		\
	P(socketpair) P(accept) P(connect) P(shutdown) P(send)		\
	P(sendmsg) P(recvmsg) P(poll) P(getsockopt) P(ioctl) P(lock)	\
	P(fork)
#define POINT_CHANGES(P)						\
	P(journal_create) P(journal_open) P(journal_stage)		\
	P(journal_publish) P(journal_release) P(journal_free)		\
	P(outbox_create) P(outbox_open)	P(outbox_reserve)		\
	P(outbox_append) P(outbox_free) P(outbox_cut) P(sink_finish)	\
	P(checkpoint_begin) P(checkpoint_done) P(store_commit)		\
	P(catalog_commit) P(automaton_run) P(sync_round)		\
	P(journal_prove) P(journal_cut) P(outbox_restore)		\
	P(outbox_committed) P(recover_cut) P(durable_round)

#define POINT_ENUM(name)	PT_##name,
#define POINT_FAULT(name, process, needs, kinds, text)	PT_fault_##name,
enum { POINT_CALLS(POINT_ENUM) POINT_CHANGES(POINT_ENUM) POINT_OWN,
	POINT_BEFORE_FAULTS = POINT_OWN - 1, FAULT_TABLE(POINT_FAULT)
	POINT_KINDS };
#undef POINT_ENUM
#undef POINT_FAULT

#endif
