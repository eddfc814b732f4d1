/* worker/kafka.c: settings and secrets, lines and wake-ups. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/unit.h"
#include "worker/kafka.h"

#define SECRET		"open sesame"
#define DEADLINE_NS	30000000000ULL

static const char *const defaults[] = { "linger.ms", "7",
    "retry.backoff.ms", "11", NULL };
static const char *const fixed[] = { "enable.idempotence", "true", NULL };

static struct topo_setting setting[4];
static struct topo_kafka topo = { .settings = setting };
static struct kafka k;
static struct err err;

static void
set(size_t i, const char *name, enum topo_setting_from from, const char *text)
{
	static char names[4][64], texts[4][256];

	(void)snprintf(names[i], sizeof(names[i]), "%s", name);
	(void)snprintf(texts[i], sizeof(texts[i]), "%s", text);
	setting[i] = (struct topo_setting){ names[i], from, texts[i] };
	topo.nsettings = i + 1;
}

static int
open_it(void)
{
	static char brokers[] = "127.0.0.1:1";
	struct kafka_how how = { .type = RD_KAFKA_PRODUCER, .what = "sink",
	    .name = "out", .defaults = defaults, .fixed = fixed };

	topo.brokers = brokers;
	return (kafka_open(&k, &how, &topo, &err));
}

static const char *
value_of(const char *name)
{
	static char value[256];
	size_t n = sizeof(value);

	ck_assert_int_eq(rd_kafka_conf_get(rd_kafka_conf(k.rk), name, value,
	    &n), RD_KAFKA_CONF_OK);
	return (value);
}

static void
refused(const char *text)
{
	ck_assert_int_eq(open_it(), -1);
	ck_assert_int_eq(err.code, ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.text, "sink \"out\" in Kafka: "));
	ck_assert_msg(strstr(err.text, text) != NULL, "%s", err.text);
	ck_assert_ptr_null(strstr(err.text, SECRET));
}

START_TEST(three_layers_of_settings)
{
	set(0, "linger.ms", SETTING_VALUE, "9");
	set(1, "client.id", SETTING_VALUE, "me");
	ck_assert_int_eq(open_it(), 0);
	ck_assert_str_eq(value_of("linger.ms"), "9");
	ck_assert_str_eq(value_of("retry.backoff.ms"), "11");
	ck_assert_str_eq(value_of("enable.idempotence"), "true");
	ck_assert_str_eq(value_of("client.id"), "me");
	ck_assert_str_eq(value_of("bootstrap.servers"), "127.0.0.1:1");
	kafka_close(&k);
	ck_assert_int_eq(k.fd, -1);
}
END_TEST

START_TEST(what_nobody_may_set)
{
	set(0, "enable.idempotence", SETTING_VALUE, "false");
	refused("setting enable.idempotence: what is promised depends on it");
	set(0, "bootstrap.servers", SETTING_VALUE, "else:1");
	refused("give the brokers as such");
	set(0, "no.such.thing", SETTING_VALUE, "1");
	refused("knows no such setting");
	set(0, "linger.ms", SETTING_VALUE, "soon");
	refused("setting linger.ms: ");
	/* Two that are right one by one, and not together. */
	set(0, "acks", SETTING_VALUE, "0");
	refused("acks");
}
END_TEST

START_TEST(secrets_come_from_elsewhere)
{
	char path[] = "/tmp/check-kafka-XXXXXX";
	int fd = mkstemp(path);

	ck_assert_int_ne(fd, -1);
	ck_assert_int_eq(write(fd, SECRET "\n", sizeof(SECRET)),
	    (ssize_t)sizeof(SECRET));
	set(0, "sasl.password", SETTING_FILE, path);
	ck_assert_int_eq(open_it(), 0);
	ck_assert_str_eq(value_of("sasl.password"), SECRET);
	kafka_close(&k);
	/* Where a name is wrong, what was in the file is not told. */
	set(0, "linger.ms", SETTING_FILE, path);
	refused("setting linger.ms: librdkafka does not accept its value");
	close(fd);
	unlink(path);
	refused("setting linger.ms: cannot read /tmp/check-kafka-");
	set(0, "sasl.password", SETTING_FILE, "/dev/null");
	refused("setting sasl.password: cannot read /dev/null");

	set(0, "sasl.password", SETTING_ENV, "CHECK_KAFKA");
	refused("the environment of the supervisor has no variable "
	    "CHECK_KAFKA");
	setenv("CHECK_KAFKA", SECRET, 1);
	ck_assert_int_eq(open_it(), 0);
	ck_assert_str_eq(value_of("sasl.password"), SECRET);
	kafka_close(&k);
	set(0, "sasl.password", SETTING_VALUE, SECRET);
	refused("a secret must come from a file or from the environment");
}
END_TEST

static struct {
	_Atomic int	n;
	_Atomic int	secret, other;
} lines;

static void
note_line(int priority, const char *line, void *arg)
{
	(void)arg;
	atomic_fetch_add(&lines.n, 1);
	if (strstr(line, SECRET) != NULL)
		atomic_store(&lines.secret, 1);
	if (strstr(line, "sink=\"out\"") == NULL)
		atomic_store(&lines.other, 1);
	if (priority < LOG_ERR)
		atomic_store(&lines.other, 1);
}

/* Whatever it says of its own configuration, in all detail. */
START_TEST(lines_are_few_and_tell_no_secrets)
{
	uint64_t until = clock_mono_ns() + DEADLINE_NS;
	struct pollfd p = { .events = POLLIN };
	bool woken = false;

	log_level(LOG_DEBUG);
	log_sink(note_line, NULL);
	setenv("CHECK_KAFKA", SECRET, 1);
	set(0, "sasl.password", SETTING_ENV, "CHECK_KAFKA");
	set(1, "debug", SETTING_VALUE, "all");
	ck_assert_int_eq(open_it(), 0);
	p.fd = k.fd;
	/* The broker is not there: that is an event. */
	while (!woken && clock_mono_ns() < until) {
		woken = poll(&p, 1, 100) == 1;
		kafka_woken(&k);
		while (rd_kafka_poll(k.rk, 0) > 0)
			;
	}
	kafka_close(&k);
	log_sink(NULL, NULL);
	ck_assert(woken);
	ck_assert_int_gt(lines.n, 0);
	ck_assert_int_eq(lines.secret, 0);
	ck_assert_int_eq(lines.other, 0);
	/* Ten a second, and one that says how many more. */
	ck_assert_int_le(lines.n, (int)(11 * (2 + (clock_mono_ns() - until +
	    DEADLINE_NS) / 1000000000)));
}
END_TEST

static int delivered;

static void
on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *arg)
{
	(void)rk;
	ck_assert_ptr_eq(arg, &k);
	ck_assert_int_eq(m->err, RD_KAFKA_RESP_ERR_NO_ERROR);
	delivered++;
}

START_TEST(deliveries_wake)
{
	struct kafka_how how = { .type = RD_KAFKA_PRODUCER, .what = "sink",
	    .name = "out", .dr_msg_cb = on_delivery };
	uint64_t until = clock_mono_ns() + DEADLINE_NS;
	struct pollfd p = { .events = POLLIN };

	set(0, "test.mock.num.brokers", SETTING_VALUE, "1");
	ck_assert_int_eq(kafka_open(&k, &how, &topo, &err), 0);
	ck_assert_int_eq(rd_kafka_producev(k.rk, RD_KAFKA_V_TOPIC("t"),
	    RD_KAFKA_V_VALUE("x", 1), RD_KAFKA_V_END), 0);
	p.fd = k.fd;
	while (delivered == 0 && clock_mono_ns() < until)
		if (poll(&p, 1, 100) == 1) {
			kafka_woken(&k);
			while (rd_kafka_poll(k.rk, 0) > 0)
				;
		}
	ck_assert_int_eq(delivered, 1);
	kafka_close(&k);
}
END_TEST

START_TEST(errors_say_what_to_do)
{
	setting[0].name = NULL;
	topo.nsettings = 0;
	ck_assert_int_eq(open_it(), 0);
	ck_assert_int_eq(kafka_err(&err, ERR_CONFIG, &k,
	    RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "reading"), -1);
	ck_assert_ptr_nonnull(strstr(err.text, "kafka: reading: "));
	ck_assert_ptr_nonnull(strstr(err.text, "kafka-topics --create"));
	ck_assert_ptr_nonnull(strstr(err.text, "sink=\"out\" "
	    "error=UNKNOWN_TOPIC_OR_PART"));
	ck_assert(kafka_is_permanent(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART));
	ck_assert(!kafka_is_permanent(RD_KAFKA_RESP_ERR__TRANSPORT));
	kafka_close(&k);
}
END_TEST

UNIT_MAIN("kafka", three_layers_of_settings, what_nobody_may_set,
    secrets_come_from_elsewhere, lines_are_few_and_tell_no_secrets,
    deliveries_wake, errors_say_what_to_do)
