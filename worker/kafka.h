/*
 * A client of Kafka: what sources and sinks share.  Settings become a client
 * of librdkafka, its log and its errors become lines of ours, its queue wakes
 * the loop.
 *
 * Settings come in three layers: defaults of ours, what the application's
 * author sets (any of librdkafka's names), and what exactness depends on,
 * which nobody may set.  A secret is never in the topology, which is saved and
 * shown: there is the name of a file, or of a variable of the environment,
 * and its content is read here.  No text that may contain one goes anywhere.
 *
 * Threads of librdkafka touch nothing but their log lines.  All callbacks are
 * called by whoever polls: the loop.  When `fd` is readable, take what is
 * there by kafka_woken() and poll until nothing comes: a queue says once that
 * it is not empty any more.  A client does not survive a fork: make it in the
 * process that uses it.
 */
#ifndef WORKER_KAFKA_H
#define WORKER_KAFKA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <librdkafka/rdkafka.h>

#include "common/err.h"
#include "common/topo.h"

struct kafka {
	rd_kafka_t	*rk;
	rd_kafka_queue_t *queue;	/* a consumer's messages; of a
					   producer the main queue */
	int		 fd;		/* an eventfd; -1 */
	char		*what;		/* "source=\"NAME\"", for log lines */
	void		*arg;		/* the owner's */
	/* Log lines of its threads, in this second. */
	_Atomic uint64_t second;
	_Atomic uint32_t lines, suppressed;
};

struct kafka_how {
	rd_kafka_type_t	 type;
	const char	*what;		/* "source" or "sink" */
	const char	*name;		/* its name */
	/* Pairs of name and value, then NULL.  May be set otherwise: */
	const char *const *defaults;
	/* and may not: */
	const char *const *fixed;
	/* Reports of delivery, NULL: none.  The opaque pointer of these and
	 * all other callbacks is the struct kafka. */
	void		(*dr_msg_cb)(rd_kafka_t *, const rd_kafka_message_t *,
			    void *);
	void		(*offset_commit_cb)(rd_kafka_t *, rd_kafka_resp_err_t,
			    rd_kafka_topic_partition_list_t *, void *);
	void		*arg;
};

/* Nothing is sent yet, so brokers that are not there are no failure. */
int	kafka_open(struct kafka *, const struct kafka_how *,
	    const struct topo_kafka *, struct err *);
/* May wait for what its threads do; a process that exits need not. */
void	kafka_close(struct kafka *);
/* Something has come; poll until nothing does. */
void	kafka_woken(struct kafka *);

/* "NAME: text, and what to do"; returns -1. */
int	kafka_err(struct err *, enum err_code, const struct kafka *,
	    rd_kafka_resp_err_t, const char *doing);
/* Will trying again not help, as long as nobody changes anything? */
bool	kafka_is_permanent(rd_kafka_resp_err_t);
/* A name whose value must come from a file or the environment. */
bool	kafka_is_secret(const char *name);

#endif
