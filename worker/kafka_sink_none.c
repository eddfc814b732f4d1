/* What takes the place of kafka_sink.c without librdkafka. */
#include "worker/kafka_sink.h"
#include "worker/worker.h"

int
kafka_sink_open(struct sink *s, struct err *err)
{
	return (err_set(err, ERR_CONFIG, "sink \"%s\" is in Kafka, and this "
	    "program was built without librdkafka: configure it again "
	    "without --without-kafka", s->w->topo.sinks[s->index].name));
}

void
kafka_sink_flush(struct sink *s)
{
	(void)s;			/* it was never opened */
}

void
kafka_sink_finish(struct sink *s)
{
	(void)s;
}
