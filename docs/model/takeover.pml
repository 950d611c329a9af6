/*
 * All sessions of two nodes (docs/protocol.md, 3.1, taking over; docs/states.md): dials of both ends, of which one
 * wins; a new session that takes over from the one in use, since its connection is lost, or the ends are to prove anew who
 * they are, or a node has lost its memory; a peer that leaves the allowlist and comes back. There is no clock: what is
 * under way arrives at any moment or never, and either end may find its connection gone at any moment.
 *
 * One event is one step. Node 0 has the smaller peer ID, so of two sessions the one that it dialled wins. A session is
 * its number, in the order of the dials, and here its epochs are one: session.pml has a session's inside.
 *
 *   spin -DDIALS=3 -a takeover.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan -m200000     all of it: make model
 *   spin -DDIALS=3 -DEDGES -a takeover.pml ...             prints every step, too: before event,node,session after
 *
 * tests/repo/test_takeover_model.py takes each of those steps on two real peers and compares what becomes of them.
 */

#ifndef DIALS
#define DIALS 3 /* who dials: 1 is node 0, 2 is node 1, 3 both */
#endif
#ifndef ANYHOW
#define ANYHOW 2 /* dials while things get lost ... */
#endif
#define SESSIONS 6 /* ... and with those that mend it */
#define NONE 15

#define ABSENT 0 /* an end of a session */
#define PROVISIONAL 1
#define ESTABLISHED 2
#define RETIRED 3

#define UNUSED 0 /* its handshake */
#define M3 1
#define ACCEPTED 2
#define DUPLICATE 3
#define OVER 4

byte dialler[SESSIONS] = NONE;
byte handshake[SESSIONS];
byte state[2 * SESSIONS];    /* of node e's end of session s, at at(s, e) */
byte order[2 * SESSIONS];    /* in which those that node e has were complete there */
byte serial[SESSIONS];       /* the listener's number of it, in that life of the listener's, as M4 says */
byte life[SESSIONS], lives[2];
bool connected[2 * SESSIONS];
bool sent[2 * SESSIONS], heard[2 * SESSIONS]; /* a record: ever by this end; by this end of the other */
bool closing[2 * SESSIONS];  /* CLOSE is under way to this end */
byte current[2] = NONE, sending[2] = NONE;
bool barred[2];              /* the peer has left the allowlist of this node */
byte dials;
bool over;                   /* a deadline or a limit passed, or a node lost its memory or its peer */
bool calm;                   /* from here on nothing gets lost, and nobody dials without need */
hidden byte event, who, which, o, p, q;

#define DIAL 0
#define FRAME_M3 1
#define FRAME_M4 2
#define FRAME_CLOSE 3
#define RECORD 4
#define LOST 5
#define NOT_PROMOTED 6
#define DRAINED 7
#define EXPIRED 8
#define CRASH 9
#define REMOVE 10
#define RESTORE 11
#define RENEW 12

#define EACH_OF(what, e) (what(e, 0) && what(e, 1) && what(e, 2) && what(e, 3) && what(e, 4) && what(e, 5))
#define ANY_OF(what, e) (what(e, 0) || what(e, 1) || what(e, 2) || what(e, 3) || what(e, 4) || what(e, 5))
#define at(s, e) (2 * (s) + (e))
#define holds(e, s) (s != NONE && state[at(s, e)] != ABSENT)
#define candidate(e, s) (dialler[s] == e && state[at(s, e)] == PROVISIONAL && connected[at(s, e)])
#define attempt(e, s) (dialler[s] == e && state[at(s, e)] == ABSENT && connected[at(s, e)])
/* Whether what node e sends now would be opened. */
#define arrives(e) (sending[e] != NONE && holds(1 - (e), sending[e]))

/* Peer.wants_dial, of a node that is not to prove anew who it is, and without silences: nobody needs them. */
#define free(e, s) (!candidate(e, s) && !attempt(e, s))
#define no_candidate(e, s) (!candidate(e, s))
#define may_dial(e) (dials < SESSIONS && (DIALS >> e & 1) && !barred[e] && EACH_OF(no_candidate, e))
#define wants_dial(e)                                                                                                  \
    (may_dial(e) && EACH_OF(free, e)                                                                                   \
        && (current[e] == NONE || ((dialler[current[e]] == e || e == 0) && !connected[at(current[e], e)])))
#define dials_now(e, s) (dialler[s] == (e) && handshake[s] == M3 && connected[at(s, 0)] && connected[at(s, 1)])

/* Peer.outranks_outbound, and Peer._lost_race. */
#define lives(e) (current[e] != NONE && connected[at(current[e], e)])
#define outranks_outbound(e) (e == 1 && lives(e) && dialler[current[e]] == 0)
/* Link.is_later, of two that the same node dialled. */
#define later(e, a, b) (life[a] == life[b] -> serial[a] > serial[b] : order[at(a, e)] > order[at(b, e)])
#define lost_race(e, s)                                                                                                \
    (current[e] != NONE && current[e] != s                                                                             \
        && (dialler[current[e]] == dialler[s] -> later(e, current[e], s)                            \
                                              : dialler[current[e]] == 0 && connected[at(current[e], e)]))

#ifdef EDGES
c_code {
    /* What is left of wants_dial without the dials that are on. */
    static int wants_dial_alone(int e)
    {
        const int s = now.current[e];

        for (int i = 0; i < SESSIONS; i++)
            if (now.dialler[i] == e && now.state[2 * i + e] == PROVISIONAL && now.connected[2 * i + e])
                return 0;
        return s == NONE || ((now.dialler[s] == e || e == 0) && !now.connected[2 * s + e]);
    }

    static void print_state(void)
    {
        for (int s = 0; s < SESSIONS && now.dialler[s] != NONE; s++) {
            printf("%d,%d,%d,%d", now.dialler[s], now.handshake[s], now.serial[s], now.life[s]);
            for (int e = 0; e < 2; e++) {
                const int j = 2 * s + e;
                printf(":%d,%d,%d,%d,%d,%d", now.state[j], now.order[j], now.connected[j], now.sent[j], now.heard[j],
                       now.closing[j]);
            }
            putchar('/');
        }
        for (int e = 0; e < 2; e++)
            printf("%d,%d,%d,%d,%d/", now.current[e], now.sending[e], now.barred[e], now.lives[e],
                   wants_dial_alone(e));
    }
};
#endif

inline begin(what, node, session)
{
    event = what;
    who = node;
    which = session;
#ifdef EDGES
    c_code { printf("STEP "); print_state(); };
#endif
}

inline finish()
{
#ifdef EDGES
    c_code { printf(" %d,%d,%d ", event, who, which); print_state(); putchar('\n'); };
#endif
    assert(sending[0] == NONE || holds(0, sending[0]));
    assert(sending[1] == NONE || holds(1, sending[1]));
    assert(current[0] == NONE || (holds(0, current[0]) && sending[0] != NONE));
    assert(current[1] == NONE || (holds(1, current[1]) && sending[1] != NONE));
    assert(over || current[0] == NONE || arrives(0));
    assert(over || current[1] == NONE || arrives(1));
}

/* ---- the parts of a step, as Peer has them ---- */

inline hang_up(e, s)
{
    connected[at(s, e)] = false;
    closing[at(s, e)] = false
}

inline send_record(e, s)
{
    sent[at(s, e)] = true
}

/* _resume: on the newest session that it dialled and waits for, which the other end has for certain; else on the one in
 * use. */
inline resume(e)
{
    sending[e] = current[e];
    q = 0;
    do
    :: q < SESSIONS ->
        if
        :: dialler[q] == e && state[at(q, e)] == PROVISIONAL && !lost_race(e, q) &&
            (sending[e] == current[e] || later(e, q, sending[e])) -> sending[e] = q
        :: else
        fi;
        q++
    :: else -> break
    od;
    q = 0
}

/* _end */
inline forget(e, s)
{
    state[at(s, e)] = ABSENT;
    order[at(s, e)] = 0;
    sent[at(s, e)] = false;
    heard[at(s, e)] = false;
    hang_up(e, s);
    if
    :: current[e] == s -> current[e] = NONE
    :: else
    fi;
    resume(e)
}

/* Every end of this node, without a word. */
inline end_all(e)
{
    p = 0;
    do
    :: p < SESSIONS ->
        state[at(p, e)] = ABSENT;
        order[at(p, e)] = 0;
        sent[at(p, e)] = false;
        heard[at(p, e)] = false;
        hang_up(e, p);
        p++
    :: else -> break
    od;
    current[e] = NONE;
    sending[e] = NONE;
    p = 0;
    do
    :: p < SESSIONS && !(dialler[p] == 1 - e && serial[p] != 0 && life[p] == lives[e]) -> p++
    :: p < SESSIONS && dialler[p] == 1 - e && serial[p] != 0 && life[p] == lives[e] -> lives[e]++; break
    :: else -> break
    od
}

inline adopt(e, s)
{
    state[at(s, e)] = PROVISIONAL;
    q = 0;
    do
    :: q < SESSIONS ->
        order[at(s, e)] = (order[at(q, e)] >= order[at(s, e)] && q != s -> order[at(q, e)] + 1 : order[at(s, e)]);
        q++
    :: else -> break
    od;
    q = 0;
    if
    :: dialler[s] == e ->
        resume(e);
        send_record(e, s)
    :: else
    fi
}

inline retire(e, s)
{
    hang_up(e, s);
    state[at(s, e)] = RETIRED
}

/* Session._establish, and Peer._established. */
inline establish(e, s)
{
    state[at(s, e)] = ESTABLISHED;
    if
    :: dialler[s] != e -> send_record(e, s)
    :: else
    fi;
    if
    :: lost_race(e, s) -> retire(e, s)
    :: else ->
        o = current[e];
        current[e] = s;
        resume(e);
        p = 0;
        do
        :: p < SESSIONS ->
            if
            :: p != s && holds(e, p) && state[at(p, e)] != RETIRED &&
                (p == o || (dialler[p] == dialler[s] && later(e, s, p))) -> retire(e, p)
            :: else
            fi;
            p++
        :: else -> break
        od;
        o = 0
    fi
}

inline receive_m3(s)
{
    handshake[s] = OVER;
    /* Peer.outranks_inbound */
    o = 0;
    p = 0;
    do
    :: p < SESSIONS ->
        o = o || (dialler[p] == 0 && dialler[s] == 1 && holds(0, p) && connected[at(p, 0)]);
        p++
    :: else -> break
    od;
    if
    :: barred[1 - dialler[s]] -> hang_up(1 - dialler[s], s)
    :: !barred[1 - dialler[s]] && o -> handshake[s] = DUPLICATE
    :: else ->
        life[s] = lives[1 - dialler[s]];
        serial[s] = 1;
        p = 0;
        do
        :: p < SESSIONS ->
            serial[s] = (p != s && dialler[p] == dialler[s] && life[p] == life[s] && serial[p] >= serial[s] ->
                serial[p] + 1 : serial[s]);
            p++
        :: else -> break
        od;
        adopt(1 - dialler[s], s);
        handshake[s] = ACCEPTED
    fi;
    o = 0;
    p = 0
}

inline receive_m4(s)
{
    if
    :: handshake[s] == DUPLICATE || outranks_outbound(dialler[s]) -> hang_up(dialler[s], s)
    :: else -> adopt(dialler[s], s)
    fi;
    handshake[s] = OVER
}

/* Peer.close: CLOSE is sealed for whoever may still read it. */
inline remove(e)
{
    p = 0;
    do
    :: p < SESSIONS ->
        if
        :: connected[at(p, e)] && (state[at(p, e)] == PROVISIONAL || state[at(p, e)] == ESTABLISHED) &&
            connected[at(p, 1 - e)] -> closing[at(p, 1 - e)] = true
        :: else
        fi;
        p++
    :: else -> break
    od;
    end_all(e)
}

inline renew(e)
{
    p = 0;
    do
    :: p < SESSIONS ->
        if
        :: dialler[p] == 1 - e && holds(e, p) -> hang_up(e, p)
        :: else
        fi;
        p++
    :: else -> break
    od;
    p = 0
}

inline dial(e)
{
    begin(DIAL, e, dials);
    dialler[dials] = e;
    handshake[dials] = M3;
    connected[at(dials, 0)] = true;
    connected[at(dials, 1)] = true;
    dials++;
    finish()
}

/* ---- what can happen ---- */

#define reads(s, e) ((handshake[s] == M3 && dialler[s] != e) || closing[at(s, e)]                                      \
                        || (dialler[s] == e && (handshake[s] == ACCEPTED || handshake[s] == DUPLICATE)))
#define record_comes(e, s) (sent[at(s, 1 - e)] && holds(e, s) && !heard[at(s, e)])
/* What the other end has yet to send before the first record can come. */
#define may_still_send(e, s)                                                                                           \
    (holds(1 - e, s) || (dialler[s] == 1 - e && handshake[s] == ACCEPTED && connected[at(s, 1 - e)]))

proctype about(byte s)
{
    byte e;

end:
    do
    :: d_step {
           handshake[s] == M3 && connected[at(s, 1 - dialler[s])] ->
           begin(FRAME_M3, 1 - dialler[s], s); receive_m3(s); finish()
       }
    :: d_step {
           (handshake[s] == ACCEPTED || handshake[s] == DUPLICATE) && connected[at(s, dialler[s])] ->
           begin(FRAME_M4, dialler[s], s); receive_m4(s); finish()
       }
#define AT(e)                                                                                                          \
    ::d_step { closing[at(s, e)] && connected[at(s, e)] && (handshake[s] != ACCEPTED || dialler[s] != e) ->            \
               begin(FRAME_CLOSE, e, s); closing[at(s, e)] = false; over = true; forget(e, s); finish() }              \
    ::d_step { record_comes(e, s) ->                                                                                   \
               begin(RECORD, e, s); heard[at(s, e)] = true;                                                            \
               if                                                                                                      \
               :: state[at(s, e)] == PROVISIONAL -> establish(e, s)                                                    \
               :: else                                                                                                 \
               fi;                                                                                                     \
               finish() }                                                                                              \
    ::d_step { connected[at(s, e)] && (!calm || (!connected[at(s, 1 - e)] && !reads(s, e))) ->                         \
               begin(LOST, e, s); over = over || (DIALS == 3 && connected[at(s, 1 - e)]); hang_up(e, s);               \
               finish() }                                                                                              \
    ::d_step { state[at(s, e)] == PROVISIONAL && (!calm || (!record_comes(e, s) && !may_still_send(e, s))) ->          \
               begin(NOT_PROMOTED, e, s); over = true; forget(e, s); finish() }                                        \
    ::d_step { state[at(s, e)] == RETIRED -> begin(DRAINED, e, s); forget(e, s); finish() }                            \
    ::d_step { !calm && state[at(s, e)] == ESTABLISHED ->                                                              \
               begin(EXPIRED, e, s); over = true; forget(e, s); finish() }
    AT(0)
    AT(1)
    od
}

proctype node(byte e)
{
end:
    do
    :: atomic {
           calm && wants_dial(e) && !barred[1 - e] && (timeout || ANY_OF(dials_now, (1 - e))) -> dial(e)
       }
    :: d_step {
           !calm && dials < ANYHOW && may_dial(e) -> dial(e)
       }
    :: d_step { !calm -> begin(CRASH, e, 0); over = true; end_all(e); p = 0; finish() }
    :: d_step { !calm && !barred[e] -> begin(REMOVE, e, 0); over = true; barred[e] = true; remove(e); p = 0; finish() }
    :: d_step { barred[e] -> begin(RESTORE, e, 0); barred[e] = false; finish() }
    :: d_step { !calm -> begin(RENEW, e, 0); over = over || DIALS == 3; renew(e); finish() }
    od
}

/* Whoever dials goes on until the two agree: when nothing is under way, that is so, or it dials again. */
#define gone(e, s) (s == current[e] || !holds(e, s))
#define in_use(e)                                                                                                      \
    (current[e] != NONE && sending[e] == current[e] && connected[at(current[e], e)] && EACH_OF(gone, e))
#define settled (current[0] == current[1] && in_use(0) && in_use(1))

init {
    byte s;

    atomic {
        run node(0);
        run node(1);
        s = 0;
        do
        :: s < SESSIONS -> run about(s); s++
        :: else -> break
        od
    };
#ifndef EDGES
    calm = true;
#endif
    timeout ->
    assert(!calm || settled || wants_dial(0) || wants_dial(1))
}
