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
};
#define FRAME_HEADER	((uint64_t)sizeof(struct frame))

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
};

/* limit: bytes that are usually enough; it stretches to 16 times that. */
int	outbox_create(struct outbox *, const char *path, uint64_t limit,
	    uint64_t lineage, uint64_t payload, struct err *);
/* *missing as journal_open. */
int	outbox_open(struct outbox *, const char *path, bool *missing,
	    struct err *);
void	outbox_close(struct outbox *);

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
