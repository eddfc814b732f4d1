/*
 * Sinks that are connectors, see committer.c; and what checkpoints say of
 * their transactions.
 */
#ifndef WORKER_COMMITTER_H
#define WORKER_COMMITTER_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/msg.h"
#include "common/mp.h"

struct sink;
struct worker;

/* The last transaction that a worker has committed at a sink, and the offset
 * in its output at which that ended. */
struct txn_record {
	char		*sink;
	uint32_t	 worker;
	uint64_t	 txn;
	uint64_t	 end;
};
struct txns {
	struct txn_record *r;
	size_t		   n;
};

void	txns_set(struct txns *, struct slice sink, uint32_t worker,
	    uint64_t txn, uint64_t end);
const struct txn_record *txns_find(const struct txns *, const char *sink,
	    uint32_t worker);
void	txns_pack(const struct txns *, struct buf *);
void	txns_unpack(struct txns *, struct mp *);
void	txns_fini(struct txns *);

struct committer {
	struct worker	*w;
	struct sink	*s;
	char		*instance;	/* what this worker calls itself */
	char		*stream;
	enum {
		COMMITTER_AWAY,		/* not connected */
		COMMITTER_GREETING,	/* its answers are awaited */
		COMMITTER_RESOLVING,	/* it has said what is in doubt */
		COMMITTER_UNDOING,	/* it cuts off what is too much */
		COMMITTER_READY
	}		 phase;
	unsigned int	 greeted;	/* answers to the greeting */
	bool		 same;		/* ready since the vote */
	uint64_t	 since_ns;	/* an answer is awaited */
	struct buf	 in, out;
	struct buf	 doubt;		/* ids, as on the wire */
	uint32_t	 ndoubt;
	ev_io		 wr;

	enum {
		TXN_NONE,
		TXN_ASKED,		/* phase 1 is sent */
		TXN_VOTED,		/* yes: for the next checkpoint */
		TXN_TAKEN		/* it is in one that is under way */
	}		 txn_state;
	uint64_t	 txn;		/* number of the last one */
	uint64_t	 end;		/* its end in the output */
	uint64_t	 decided;	/* last that is committed */
	uint64_t	 committed;	/* output up to here is */
};

struct committer *committer_new(struct worker *, struct sink *, size_t);
void	committer_free(struct committer *);
/* The payload offset at which an outbox begins that is made anew. */
uint64_t committer_begins(const struct sink *);
int	committer_open(struct sink *, struct err *);
/* Nobody knows how far the sink has come. */
void	committer_lost(struct sink *);
void	committer_conn(struct sink *, const struct msg_sinkconn *, int fd);
void	committer_flush(struct sink *);
/* It is time to commit: true if a sink was asked for its vote. */
bool	committer_tick(struct worker *);
void	committer_taken(struct worker *);	/* a checkpoint begins */
void	committer_committed(struct worker *);	/* and is committed */
void	committer_pack(const struct worker *, struct buf *);
void	committer_unpack(struct worker *, struct mp *);
void	committer_finish(struct sink *);

#endif
