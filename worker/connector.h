/*
 * What a connector that feeds a source may say, and what it is answered: the
 * session of one connection and the streams of a source.  Frames in, a reply
 * and perhaps a record out: no I/O, no clock.  What it decides is a function
 * of the journal, and its streams are part of the checkpoint.
 *
 *	(connected) --HELLO--> streaming --NOTIFY--> stream is open
 *	                                    MESSAGE...   EOS --> it is closed
 *
 * A stream is open on at most one connection.  One worker has all streams of
 * a source, so that is a local question.
 */
#ifndef WORKER_CONNECTOR_H
#define WORKER_CONNECTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include "common/buf.h"
#include "common/topo.h"

struct stream {
	uint64_t	id;
	uint64_t	seen;		/* last message, or WIRE_NOTHING */
	uint64_t	conn;		/* it is open on this one; 0: closed */

	/* Not in the checkpoint: */
	uint64_t	acked;		/* `seen` of the last commit */
	uint64_t	taken;		/* of the checkpoint under way */
	bool		due;		/* it was opened: to be said once */
	uint64_t	ended;		/* EOS came on this one; 0: none */
	uint64_t	ended_taken;	/* and is in that checkpoint */
	UT_hash_handle	hh;
};

struct streams {
	struct stream	*by_id;
};

enum session_verdict {
	SESSION_GO_ON,
	SESSION_RECORD,		/* key, body, stream and id are set */
	SESSION_END		/* why is set; the reply says so as well */
};

/* One frame of one connection. */
struct session {
	const struct topo_source *src;
	struct streams	*streams;
	uint64_t	 most;		/* streams that there may be */
	uint64_t	 conn;
	bool		 greeted;	/* HELLO has been accepted */
	struct buf	*reply;		/* answers are appended */
	/* Out: */
	struct slice	 key, body;
	uint64_t	 stream, id;
	bool		 news;		/* streams have changed */
	char		 why[160];
};

enum session_verdict session_frame(struct session *, struct slice frame);
/* An ERROR frame. */
void	session_refuse(struct buf *reply, const char *why);

struct stream *streams_find(const struct streams *, uint64_t id);
/* The connection is gone: its streams are closed. */
void	streams_release(struct streams *, uint64_t conn);
void	streams_fini(struct streams *);
void	streams_pack(const struct streams *, struct buf *);
/* -1: these are no streams. */
int	streams_unpack(struct streams *, struct slice);

/* A checkpoint begins; it is committed. */
void	streams_taken(struct streams *);
void	streams_committed(struct streams *,
	    void (*ack)(void *, uint64_t conn, uint64_t id, uint64_t point),
	    void *arg);

#endif
