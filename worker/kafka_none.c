/* A build without librdkafka: what reads from Kafka says so and ends. */
#include "worker/worker.h"

bool
kafka_source_pump(struct worker *w, size_t i)
{
	worker_fatal(w, EXIT_PERMANENT, "source \"%s\" is in Kafka: this "
	    "program was built without librdkafka; build it anew where that "
	    "is installed", w->topo.sources[i].name);
}

void
kafka_source_lag(struct worker *w)
{
	(void)w;
}

void
kafka_source_taken(struct worker *w)
{
	(void)w;
}

void
kafka_source_committed(struct worker *w, bool last)
{
	(void)w;
	(void)last;
}
