/*
 * One epoch of data keys, driven by lines:
 *
 *   new SUITE RX_INDEX TX_INDEX TX_SECRETS RX_SECRETS RECORDS_SOFT RECORDS_HARD BLOCKS_SOFT BLOCKS_HARD
 *                              replaces the epoch; the lanes follow from the length of the secrets; answers ok
 *   seal LANE FLAGS PAYLOAD    answers the record
 *   open RECORD                answers the payload, then 1 if the counter became the highest of its lane, else 0
 *   state                      answers soft_limit, then counter/blocks of each send lane, then records/blocks/next of
 *                              each receive lane
 *
 * A refusal answers "error NAME".
 */
#define _POSIX_C_SOURCE 200809L /* getline */

#include "cq_epoch.h"
#include "lines.h"

static struct cq_epoch *epoch;

static void answer_error(int rc) { printf("error %s", lines_error(rc)); }

static void command_new(char **words)
{
    struct bytes tx = lines_bytes(words[4]), rx = lines_bytes(words[5]);
    const struct cq_epoch_params params = {
        .suite = (uint8_t)lines_number(words[1]),
        .rx_index = (uint32_t)lines_number(words[2]),
        .tx_index = (uint32_t)lines_number(words[3]),
        .tx_lanes = (uint8_t)(tx.n / CQ_LANE_SECRET_SIZE),
        .rx_lanes = (uint8_t)(rx.n / CQ_LANE_SECRET_SIZE),
        .tx_secrets = tx.p,
        .rx_secrets = rx.p,
        .limits = {.records_soft = lines_number(words[6]),
                   .records_hard = lines_number(words[7]),
                   .blocks_soft = lines_number(words[8]),
                   .blocks_hard = lines_number(words[9]),
                   .forged_soft = UINT64_MAX,
                   .forged_hard = UINT64_MAX},
    };
    int rc;

    cq_epoch_free(epoch);
    epoch = cq_epoch_new(&params, &rc);
    if (epoch != NULL)
        fputs("ok", stdout);
    else
        answer_error(rc);
    lines_free(tx), lines_free(rx);
}

static void command_seal(char **words)
{
    struct bytes payload = lines_bytes(words[3]), record = lines_alloc(payload.n + CQ_OVERHEAD);
    int rc = cq_epoch_seal(epoch, (uint8_t)lines_number(words[1]), (uint16_t)lines_number(words[2]), payload.p,
                           payload.n, record.p);

    if (rc == CQ_OK)
        lines_print(record.p, record.n);
    else
        answer_error(rc);
    lines_free(payload), lines_free(record);
}

static void command_open(char **words)
{
    struct bytes record = lines_bytes(words[1]);
    struct cq_header header = {0};
    bool newest = true;

    if (record.n >= CQ_HEADER_SIZE)
        header = cq_wire_read_header(record.p);
    int rc = cq_epoch_open(epoch, &header, record.p, record.n, &newest);
    if (rc != CQ_OK && newest)
        lines_bad("a refused record is called the newest");
    if (rc == CQ_OK) {
        lines_print(record.p + CQ_HEADER_SIZE, record.n - CQ_OVERHEAD);
        printf(" %d", newest);
    } else {
        answer_error(rc);
    }
    lines_free(record);
}

static void command_state(void)
{
    printf("%d", (int)epoch->soft_limit);
    for (unsigned i = 0; i < epoch->tx_lanes; i++)
        printf(" %llu/%llu", (unsigned long long)epoch->tx[i].counter, (unsigned long long)epoch->tx[i].blocks);
    for (unsigned i = 0; i < epoch->rx_lanes; i++)
        printf(" %llu/%llu/%llu", (unsigned long long)epoch->rx[i].records, (unsigned long long)epoch->rx[i].blocks,
               (unsigned long long)epoch->rx[i].window.next);
}

static void command(char *line)
{
    char *words[LINES_WORDS_MAX];
    int n = lines_split(line, words);

    if (n == 10 && strcmp(words[0], "new") == 0)
        command_new(words);
    else if (epoch == NULL)
        lines_bad("no epoch");
    else if (n == 4 && strcmp(words[0], "seal") == 0)
        command_seal(words);
    else if (n == 2 && strcmp(words[0], "open") == 0)
        command_open(words);
    else if (n == 1 && strcmp(words[0], "state") == 0)
        command_state();
    else
        lines_bad(n != 0 ? words[0] : "empty line");
    putchar('\n');
    fflush(stdout);
}

int main(void)
{
    char *line = NULL;
    size_t size = 0;

    while (getline(&line, &size, stdin) > 0)
        command(line);
    free(line);
    cq_epoch_free(epoch);
    return 0;
}
