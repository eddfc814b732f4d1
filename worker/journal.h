/*
 * The journal: everything that influences a worker, in one order.
 *
 * A ring in a mapped file (of tmpfs, usually), mapped twice in a row so that
 * an entry is always contiguous.  The bytes belong to the file: a killed
 * process loses none.  An entry's header (what, from where, room) is written
 * before the read(2) that fills it, its length is published after, by moving
 * `tail`; so bytes that the kernel handed over, but that were not published,
 * can be attributed to one connection and published at recovery.
 *
 * Positions are bytes since the worker's first start and never go back:
 *	head <= checkpoint <= done <= tail.
 * `done` is the one release word: outputs of records up to it are in the
 * outboxes, outbox records above it do not exist.
 *
 * A sealed journal (durability machine) lies on a disk.  Each of its entries
 * has a hash over its header, its payload, its position and the lineage: what
 * a power loss left is believed as far as these hold, and the words in the
 * file's head are not believed at all.
 *
 * One thread.  Fails by return value; a file that is not what it must be is
 * ERR_CORRUPT and never half-believed.
 */
#ifndef WORKER_JOURNAL_H
#define WORKER_JOURNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

enum entry_type {
	ENTRY_BYTES = 1,	/* from client connection `channel` */
	ENTRY_EOF,		/* the connection's or file's end; len 1 */
	ENTRY_OPEN,		/* new connection; payload: u32 source */
	ENTRY_FORGET,		/* its duplicate is dropped; len 1 */
	ENTRY_FILE,		/* bytes of file or stdin source `channel` */
	ENTRY_GEN,		/* len values of generator `channel` */
	ENTRY_FRAME,		/* from worker channel>>16, exchange &0xffff */
	ENTRY_ASIDE,		/* a record before it kills: automaton.h */
	ENTRY_LETTER,		/* u64 seq, a record put back: letter.h */
	ENTRY_TICK,		/* it is so late: len windows may fire */
	ENTRY_TYPES
};

/* flags of ENTRY_EOF */
#define ENTRY_RESET	1	/* by RST, not FIN */
#define ENTRY_SOURCE	2	/* channel is a source number */

struct entry {
	uint64_t	pos;		/* its own position: proves the lap */
	uint64_t	time_ns;	/* never goes back */
	uint64_t	channel;
	uint64_t	off;		/* channel's stream offset of data[0] */
	uint32_t	room;		/* payload bytes it might have taken */
	uint16_t	type;
	uint16_t	flags;
	uint64_t	check;		/* hash of the members above */
	uint32_t	len;		/* payload; nothing before publishing */
	uint32_t	reserved;	/* automaton.c: sum of its outputs */
	uint64_t	seal;		/* hash, 0: not sealed */
	uint8_t		data[];
};
#define ENTRY_HEADER	((uint64_t)sizeof(struct entry))

struct journal_head;
struct journal {
	struct journal_head	*h;
	uint8_t			*ring;
	uint64_t		 size;	/* of the ring, bytes */
	uint64_t		 clock_ns;
	bool			 sealed;
	int			 fd;
};

/* path NULL: anonymous memory (durability none). */
int	journal_create(struct journal *, const char *path, uint64_t size,
	    uint32_t worker, uint64_t lineage, uint64_t start, struct err *);
/* From now on entries are sealed; said right after the creation. */
void	journal_seal(struct journal *);
/* ENOENT is told by *missing; another boot than this one by *old_boot, and
 * then nothing of a sealed journal has been looked at yet: journal_prove. */
int	journal_open(struct journal *, const char *path, uint32_t worker,
	    bool *missing, bool *old_boot, struct err *);
void	journal_close(struct journal *);
/*
 * Copy a journal that its owner goes on writing.  The copy ends where the
 * journal ended before, and begins where it begins now: *head.
 */
int	journal_copy(const char *from, const char *to, uint32_t worker,
	    uint64_t *head, struct err *err);

/*
 * In the file, beside the positions: what user code is at work on, so that
 * whoever comes after a death knows.  Two plain stores per call of user code.
 */
#define JOURNAL_SUSPECTS 16
struct journal_note {
	_Atomic uint64_t stamp;		/* of the record */
	_Atomic uint64_t call;		/* NOTE_CALL; 0 = no user code runs */
	struct journal_suspect {
		uint64_t	stamp;
		uint64_t	call;
		uint64_t	deaths;	/* 0: not in use */
		char		how[64]; /* the last */
	} suspect[JOURNAL_SUSPECTS];
};
/* Call number `n` of a record, in stage `stage` (-1 = at its source). */
#define NOTE_CALL(n, stage)	((uint64_t)(n) << 32 | (uint32_t)((stage) + 2))
#define NOTE_NUMBER(call)	((uint32_t)((call) >> 32))
#define NOTE_STAGE(call)	((int)(uint32_t)(call) - 2)
struct journal_note *journal_note(const struct journal *);
/* After a power loss: believe entries from `from` on, as far as seals hold.
 * Head and done become `from`, tail the end of the last one. */
void	journal_prove(struct journal *, uint64_t from);
/* Nothing from pos (an entry's end) on is there any more: not on the disk
 * either, where a remainder could once be taken for something new.  The
 * journal is of this boot then. */
int	journal_cut(struct journal *, const char *path, uint64_t pos,
	    struct err *);
/* As after a power loss, from the next open on. */
void	journal_distrust(struct journal *);
int	journal_disown(const char *path, struct err *);
/* `done` back to pos: later outputs are made again. */
void	journal_redo(struct journal *, uint64_t pos);
/* Counts commits of checkpoints, to tell an older copy of a file. */
uint64_t journal_commits(const struct journal *);
void	journal_set_commits(struct journal *, uint64_t);

uint64_t journal_lineage(const struct journal *);
uint64_t journal_head_pos(const struct journal *);
uint64_t journal_done(const struct journal *);
uint64_t journal_tail(const struct journal *);
uint64_t journal_used(const struct journal *);

/* The entry at a position < tail; NULL if there is no valid one. */
struct entry *journal_at(const struct journal *, uint64_t pos);
static inline uint64_t
entry_size(uint32_t len)
{
	return ((ENTRY_HEADER + len + 7) & ~(uint64_t)7);
}
static inline uint64_t
entry_end(const struct entry *e)
{
	return (e->pos + entry_size(e->len));
}

/*
 * Write the header of the next entry and return where its payload goes.  The
 * caller has made sure that entry_size(room) fits (journal_used).
 */
uint8_t	*journal_stage(struct journal *, enum entry_type, uint64_t channel,
	    uint64_t off, uint32_t room, uint16_t flags);
/* The staged entry at the tail, if there is a valid one; for recovery. */
struct entry *journal_staged(const struct journal *);
/* Give the staged entry its length and make it part of the journal. */
void	journal_publish(struct journal *, uint32_t len);

void	journal_release(struct journal *, uint64_t done);
/* Forget entries that end at or before pos; idempotent. */
void	journal_free(struct journal *, uint64_t pos);

#endif
