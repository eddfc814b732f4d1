/*
 * An outbox: everything that a worker says to one receiver (a peer's
 * exchange, or a sink), kept until the receiver has it.
 *
 * A stream of frames in a mapped file that grows by segments up to a bound;
 * freed segments are used again.  A frame is stamped with the journal
 * position of the last record that caused any of it.  Offsets are bytes of
 * this stream since the outbox was made.
 *
 * For a sink the frame's body is the bytes to write, then a u32 length per
 * record; `payload` counts bytes written by the sink alone, across frames.
 *
 * A sealed outbox (durability machine) lies on a disk.  Each frame has a hash;
 * where it stands is part of each checkpoint, and that alone is believed after
 * a power loss.  So what a checkpoint may come back to stays in place until the
 * next one is committed, whoever has received it.
 *
 * One thread; a kill at any instruction leaves a valid file: data first,
 * then `tail`; freeing moves `head`.
 */
#ifndef WORKER_OUTBOX_H
#define WORKER_OUTBOX_H

#include <sys/uio.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

struct frame {
	uint64_t	pos;		/* stamp: (pos, index) of last record */
	uint64_t	payload;	/* sinks: payload offset of body[0] */
	uint32_t	index;
	uint32_t	records;
	uint32_t	len;		/* body without the record lengths */
	uint32_t	lens;		/* bytes of record lengths after it */
	uint64_t	seal;		/* hash, 0: not sealed */
};
#define FRAME_HEADER	((uint64_t)sizeof(struct frame))

/* Is this what follows the header: the body, then, if there are any, the
 * lengths of its records? */
bool	frame_fits(const struct frame *, struct slice);

/* Where a sink stands; lives in the outbox's file. */
struct outbox_sink {
	uint64_t	conn;		/* id of the connection, 0 = none */
	uint64_t	conn_base;	/* payload offset of its first byte */
	uint64_t	baseline;	/* of its kernel counter */
	uint64_t	resume;		/* payload offset to go on from */
	uint64_t	file_base;	/* size of the file at payload 0 ... */
	int64_t		file_shift;	/* size = payload + shift */
	uint64_t	dev;
	uint64_t	ino;
	uint64_t	opened;		/* 1: file_* are valid */
	uint64_t	known;		/* 1: file_* are in a checkpoint */
	uint64_t	cut;		/* 1: only what is kept here no more
					   is surely in the file */
};

struct outbox_head;
struct outbox {
	struct outbox_head	*h;
	char			*path;		/* NULL: anonymous */
	int			 fd;
	uint32_t		 nslots;	/* most segments */
	uint64_t		 head_size;
	uint8_t			**segment;	/* [physical], mapped */
	uint32_t		*spare;		/* free segments with space */
	uint32_t		 nspare;
	uint32_t		*hollow;	/* free ones, perhaps without */
	uint32_t		 nhollow;
	uint64_t		 payload_tail;	/* sinks: next payload offset */
	bool			 sealed;
	uint64_t		 kept;		/* sealed: from here on
						   nothing is written over */
	uint64_t		 saved;		/* head of the snapshot that is
						   on its way to a commit */
	struct outbox_sink	 saved_sink;	/* the same */
};

/* limit: bytes that are usually enough; it stretches to 16 times that. */
int	outbox_create(struct outbox *, const char *path, uint64_t limit,
	    uint64_t lineage, uint64_t payload, struct err *);
/* *missing as journal_open. */
int	outbox_open(struct outbox *, const char *path, bool *missing,
	    struct err *);
void	outbox_close(struct outbox *);

/* --- sealed ones --------------------------------------------------------- */

void	outbox_seal(struct outbox *);		/* right after the creation */
bool	outbox_sealed(const struct outbox *);
/* Where it stands, for a checkpoint. */
void	outbox_snapshot(struct outbox *, struct buf *);
/* That checkpoint is committed. */
void	outbox_committed(struct outbox *);
/* Is the sink's file still the one of the last snapshot? */
bool	outbox_same_file(const struct outbox *);
/* Opened after a kill: what the last committed snapshot needs is kept. */
int	outbox_keep(struct outbox *, struct slice snapshot, struct err *);
/* Open as it was in the snapshot, believing nothing else. */
int	outbox_restore(struct outbox *, const char *path, uint64_t lineage,
	    struct slice snapshot, bool *missing, struct err *);
/* Bytes that wait for a commit before they can be used again. */
uint64_t outbox_waiting(const struct outbox *);
/* Of the file at path, without opening it as an outbox; ENOENT: -1. */
int	outbox_commits(const char *path, uint64_t *);
void	outbox_set_commits(struct outbox *, uint64_t);

uint64_t outbox_lineage(const struct outbox *);
uint64_t outbox_head(const struct outbox *);
uint64_t outbox_tail(const struct outbox *);
uint64_t outbox_used(const struct outbox *);
struct outbox_sink *outbox_sink(struct outbox *);

/* An empty outbox: the next payload byte has this offset. */
void	outbox_begin(struct outbox *, uint64_t payload);
/* Make room for n more bytes (headers included); ERR_STORAGE when there is
 * no space now, ERR_LIMIT at the bound: try again after something left. */
int	outbox_reserve(struct outbox *, uint64_t n, struct err *);
/* Append a frame; its room is reserved.  f->len, lens and payload are set
 * here; lens may be NULL. */
void	outbox_append(struct outbox *, struct frame *f, struct slice body,
	    const uint32_t *lens);
/* Read the frame header at off (head <= off < tail); returns the offset of
 * the next frame. */
uint64_t outbox_frame(const struct outbox *, uint64_t off, struct frame *);
void	outbox_read(const struct outbox *, uint64_t off, void *, uint64_t n);
/* Up to max pieces for the n bytes at off; returns how many. */
int	outbox_iov(const struct outbox *, uint64_t off, uint64_t n,
	    struct iovec *, int max);
/* Frames that end at or before off are gone. */
void	outbox_free(struct outbox *, uint64_t off);
/* Forget frames stamped above pos: they were never released. */
void	outbox_cut(struct outbox *, uint64_t pos);

#endif
