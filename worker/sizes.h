/*
 * Bounds of a worker's memory and of its turns.  The simulation is compiled
 * with small ones, so that a few hundred inputs reach every bound: the end of
 * a ring, the next segment, the last credit.
 */
#ifndef WORKER_SIZES_H
#define WORKER_SIZES_H

#ifdef WALLAROO_SMALL
#define SIZE(usual, small)	(small)
#else
#define SIZE(usual, small)	(usual)
#endif

/* automaton.c: a frame is closed from here on */
#define FRAME_BYTES	SIZE(48 * 1024, 400)
/* What a frame has beside one record of the largest size: other records,
 * length, code, numbers. */
#define FRAME_ROOM	SIZE(64 * 1024, 768)
#define FRAME_SLACK	SIZE(128 * 1024, 1536)

/* journal.c: rings are a multiple of this */
#define RING_UNIT	SIZE(65536, 4096)
/* recover.c: journal bytes for control entries */
#define CONTROL_SLACK	SIZE(256 * 1024, 2048)

/* outbox.c */
#define SEGMENT		SIZE(256 * 1024, 4096)
#define KEEP_SPARE	SIZE(16, 2)	/* segments */

/* checkpoint.c: keys saved between two looks at the clock; how long the
 * events of a turn wait for keys that are saved */
#define SLICE_KEYS	SIZE(16, 1)
#define SLICE_NS	SIZE(500000, 0)

/* storejob.c: rows of a checkpoint are in memory that grows from so many
 * bytes to so many at once */
#define ROWS_FEW	SIZE(64 * 1024, 512)
#define ROWS_MANY	SIZE(33 * 1024 * 1024, 4096)

/* load.c: keys that are loaded before anything is processed; how many between
 * two looks at the clock, and for how long per turn, after it.  Tests with
 * fault points have few keys. */
#ifdef WALLAROO_FAULTS
#define LOAD_FIRST	8
#else
#define LOAD_FIRST	SIZE(10000, 2)
#endif
#define LOAD_KEYS	SIZE(64, 1)
#define LOAD_NS		SIZE(500000, 0)

/* loop.c: output per turn */
#define TURN_BYTES	SIZE(512 * 1024, 4096)

/* source.c: of one connection, at a time; of a file; most values that one
 * entry asks of a generator */
#define CONN_BYTES	SIZE(64 * 1024, 2048)
#define FILE_BYTES	SIZE(128 * 1024, 2048)
#define GEN_VALUES	SIZE(4096, 8)
/* Unprocessed bytes to keep ahead: more would only make outboxes stretch. */
#define BACKLOG		SIZE(256 * 1024, 4096)
#define LEAST_ROOM	SIZE(4096, 256)

/* peer.c: from and to a channel, at a time */
#define CHANNEL_READ	SIZE(256 * 1024, 2048)
#define CHANNEL_SEND	SIZE(128 * 1024, 1024)

#endif
