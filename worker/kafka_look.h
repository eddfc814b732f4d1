/*
 * What there is to be read in Kafka: a look at the topics of a source, their
 * partitions, and where those begin and end.  It waits for brokers, so a
 * helper thread does it; the job is all that the thread sees.
 */
#ifndef WORKER_KAFKA_LOOK_H
#define WORKER_KAFKA_LOOK_H

#include <librdkafka/rdkafka.h>

#include "common/topo.h"
#include "worker/offsets.h"

struct look_found {
	char		*topic;
	int32_t		 partition;
	int64_t		 low, high;	/* the first, behind the last */
	int64_t		 start;		/* of one that is new */
};

struct look {
	/* In: */
	const struct kafka *k;
	const struct topo_source *src;
	uint32_t	 worker, workers;
	bool		 begun;		/* what is new now is read from its
					   first record */
	struct offsets	 known;		/* nothing is asked about these */
	/* Out: */
	struct look_found *found;	/* partitions of this worker */
	size_t		 nfound;
	bool		 failed, permanent;
	bool		 unsure;	/* it may be that brokers have begun
					   only now, and do not know yet */
	struct err	 err;
};

void	kafka_look(struct look *);
void	kafka_look_free(struct look *);
/* Is this how a source's start is said? */
bool	kafka_start_is_good(const char *);

#endif
