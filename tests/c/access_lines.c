/*
 * The guard of one peer, driven by lines:
 *
 *   peer NETWORK...            begins anew, with the networks that the peer owns, and without rules; answers ok
 *   rules RULE...              the peer is held to these from now on; answers ok
 *   in PACKET                  answers 1 if that packet of the peer goes on, else 0
 *   out PACKET                 this side sends it to the peer; answers ok
 *
 * A network is family, prefix length and 16 bytes of address, in hex; a rule is a network and the first and last service,
 * 4 bytes each.
 */
#define _POSIX_C_SOURCE 200809L /* getline */

#include "cq_guard.h"
#include "lines.h"

enum { PEER = 3, NETWORK = 18, RULE = 26, RULES_MAX = 64 };

static struct cq_route_list *list;
static struct cq_route_table *routes;
static struct cq_rules rules;
static struct cq_guard guard;

static void clear(void)
{
    cq_route_free(routes);
    cq_route_list_free(list);
    cq_access_free(rules.access);
    cq_flows_free(guard.flows);
    rules.access = NULL;
}

static void command_peer(char **words, int n)
{
    static const uint64_t seed[2] = {3, 4};
    struct cq_route_entry networks[LINES_WORDS_MAX];
    clear();
    for (int i = 1; i < n; i++) {
        struct bytes b = lines_bytes(words[i]);
        networks[i - 1] = (struct cq_route_entry){.family = b.p[0], .prefix = b.p[1], .value = PEER};
        memcpy(networks[i - 1].addr, b.p + 2, 16);
        lines_free(b);
    }
    list = cq_route_list_new(networks, (size_t)n - 1, NULL);
    guard = (struct cq_guard){.flows = cq_flows_new(seed, 0)};
    if (list == NULL || guard.flows == NULL)
        lines_bad("a network");
    routes = cq_route_take(list);
    fputs("ok", stdout);
}

static void command_rules(const char *word)
{
    struct cq_access_rule all[RULES_MAX];
    struct bytes b = lines_bytes(word);
    int error;
    if (b.n % RULE != 0 || b.n / RULE > RULES_MAX)
        lines_bad("rules");
    for (size_t i = 0; i < b.n / RULE; i++) {
        const uint8_t *r = b.p + i * RULE;
        all[i] = (struct cq_access_rule){
            .family = r[0], .prefix = r[1], .first = cq_get32(r + NETWORK), .last = cq_get32(r + NETWORK + 4)};
        memcpy(all[i].addr, r + 2, 16);
    }
    cq_access_free(rules.access);
    rules = (struct cq_rules){cq_access_new(all, b.n / RULE, &error), rules.serial + 1};
    if (rules.access == NULL)
        lines_bad("a rule");
    lines_free(b);
    fputs("ok", stdout);
}

static void command_packet(const char *way, const char *word)
{
    struct bytes b = lines_bytes(word);
    struct cq_guard_refusal refusal;
    if (b.n == 0 || cq_packet_length(b.p, b.n) != b.n)
        lines_bad("no whole packet");
    if (strcmp(way, "in") == 0) {
        const bool passes = rules.access == NULL || cq_guard_admits(&guard, &rules, routes, PEER, b.p, b.n, &refusal);
        putchar(passes ? '1' : '0');
    } else {
        cq_guard_sends(&guard, rules.access != NULL, PEER, b.p, b.n);
        fputs("ok", stdout);
    }
    lines_free(b);
}

static void command(char *line)
{
    char *words[LINES_WORDS_MAX];
    const int n = lines_split(line, words);
    if (n >= 2 && strcmp(words[0], "peer") == 0)
        command_peer(words, n);
    else if (routes == NULL)
        lines_bad("no peer");
    else if (n == 2 && strcmp(words[0], "rules") == 0)
        command_rules(words[1]);
    else if (n == 2 && (strcmp(words[0], "in") == 0 || strcmp(words[0], "out") == 0))
        command_packet(words[0], words[1]);
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
    clear();
    return 0;
}
