/*
 * Sinks that are topics in Kafka, see kafka_sink.c.
 */
#ifndef WORKER_KAFKA_SINK_H
#define WORKER_KAFKA_SINK_H

#include "common/err.h"

struct sink;

/*
 * A record in the outbox: three i32 in the machine's order (partition, -1:
 * by the key; bytes of the key, -1: none; bytes of the value, -1: null),
 * then key and value.
 */
#define KAFKA_RECORD_HEADER	12

int	kafka_sink_open(struct sink *, struct err *);
/* Once per turn: what may leave goes to its thread, what is committed leaves
 * the outbox. */
void	kafka_sink_flush(struct sink *);
/* The stop: the transaction at work is committed, if that can be. */
void	kafka_sink_finish(struct sink *);

#endif
