-- Wireshark and tshark: CrypRQ's UDP port, with QUIC and records side by side (docs/protocol.md, sections 2 and 4).
--
--   tshark -X lua_script:cryprq.lua -r outer.pcap           once
--   cp cryprq.lua ~/.local/lib/wireshark/plugins/           for good (the folder is in Help, About Wireshark, Folders)
--   tshark -o cryprq.ports:9999,51820 ...                   other ports; in Wireshark: Preferences, Protocols, CrypRQ
--
-- Works from Wireshark 4.0 (Lua 5.2) to 4.4 (Lua 5.4). The latter takes no script from root, without a word: capture as
-- root, look as somebody else. On a port that is not told, Wireshark shows records as QUIC once it has seen a handshake.
--
-- What is inside a record is sealed and stays so: this shows headers and lengths. What a receiver drops without a look
-- at a key is marked, and cryprq.drop has the word under which the receiver counts it (cryprq_dropped_packets_total).
--
-- A capture on an end of the tunnel, not between them, has many datagrams in one: the kernel cuts them apart later
-- (UDP_SEGMENT) or has merged them before (GRO), and a pcap file does not tell their size. They are told apart here by
-- the next header with the same lane and receiver index.

local TYPE = 1
local VOUCHED = 0x0001 -- the only flag that there is
local HEADER, TAG = 16, 16
local OVERHEAD = HEADER + TAG
local LANES_MAX = 64
local RECORDS_HARD = 2 ^ 28
local QUIC_FIRST_BYTE = 0x40

local cryprq = Proto("cryprq", "CrypRQ")

local field = {
    type = ProtoField.uint8("cryprq.type", "Type", base.DEC, { [TYPE] = "Data record" }),
    lane = ProtoField.uint8("cryprq.lane", "Lane", base.DEC, nil, nil, "The worker of the sender that sealed it"),
    flags = ProtoField.uint16("cryprq.flags", "Flags", base.HEX),
    vouched = ProtoField.bool("cryprq.flags.vouched", "Vouched", 16, { "TCP and UDP checksums are left to the receiver",
        "packets carry their checksums" }, VOUCHED),
    unknown = ProtoField.uint16("cryprq.flags.unknown", "Unknown", base.HEX, nil, 0xFFFF - VOUCHED),
    index = ProtoField.uint32("cryprq.index", "Receiver index", base.HEX, nil, nil, "The receiver's name for the keys"),
    counter = ProtoField.uint64("cryprq.counter", "Counter", base.DEC, nil, nil, "Counts the records of one key"),
    sealed = ProtoField.bytes("cryprq.sealed", "Sealed packets", base.SPACE),
    length = ProtoField.uint32("cryprq.sealed.length", "Sealed bytes", base.DEC, nil, nil, "Without the tag"),
    tag = ProtoField.bytes("cryprq.tag", "Tag", base.SPACE),
    drop = ProtoField.string("cryprq.drop", "The receiver drops it as"),
    datagrams = ProtoField.uint32("cryprq.datagrams", "Datagrams in this one"),
}
cryprq.fields = field

local MALFORMED, PROTOCOL, ERROR = expert.group.MALFORMED, expert.group.PROTOCOL, expert.severity.ERROR
local fault = {
    short = ProtoExpert.new("cryprq.expert.short", "Shorter than header and tag", MALFORMED, ERROR),
    type = ProtoExpert.new("cryprq.expert.type", "Neither QUIC nor a data record", MALFORMED, ERROR),
    flags = ProtoExpert.new("cryprq.expert.flags", "A flag that the protocol does not have", MALFORMED, ERROR),
    lane = ProtoExpert.new("cryprq.expert.lane", "A lane beyond the last one", MALFORMED, ERROR),
    index = ProtoExpert.new("cryprq.expert.index", "No receiver has the index 0", PROTOCOL, ERROR),
    counter = ProtoExpert.new("cryprq.expert.counter", "A counter beyond a key's last record", PROTOCOL, ERROR),
}
cryprq.experts = fault

-- ---- one record ----

-- The first thing that a receiver finds wrong with a whole header, as the key of its fault, and the reason that it
-- counts; in the receiver's order. nil: it looks for the key.
local function refusal(tvb)
    if tvb(0, 1):uint() ~= TYPE then
        return "type", "bad_header"
    elseif tvb(2, 2):uint() > VOUCHED then
        return "flags", "bad_header"
    elseif tvb(1, 1):uint() >= LANES_MAX then
        return "lane", "bad_header"
    elseif tvb(4, 4):uint() == 0 then
        return "index", "unknown_index"
    elseif tvb(8, 4):uint() > 0 or tvb(12, 4):uint() >= RECORDS_HARD then
        return "counter", "no_key"
    end
end

local function mark(tree, kind, reason)
    tree:add_proto_expert_info(fault[kind])
    tree:add(field.drop, reason):set_generated()
end

local function add_header(tree, tvb)
    tree:add(field.type, tvb(0, 1))
    tree:add(field.lane, tvb(1, 1))
    local flags = tree:add(field.flags, tvb(2, 2))
    flags:add(field.vouched, tvb(2, 2))
    flags:add(field.unknown, tvb(2, 2))
    tree:add(field.index, tvb(4, 4))
    tree:add(field.counter, tvb(8, 8))
end

-- Of a capture that keeps only the beginning of packets, what there is.
local function add_sealed(tree, tvb)
    local length = tvb:reported_len() - OVERHEAD
    local captured = math.min(length, tvb:len() - HEADER)
    if captured > 0 then
        tree:add(field.sealed, tvb(HEADER, captured))
    end
    tree:add(field.length, length):set_generated()
    if tvb:len() == tvb:reported_len() then
        tree:add(field.tag, tvb(HEADER + length, TAG))
    end
    return length
end

-- Returns a line about the record, for the column and for the tree.
local function record(tvb, tree)
    if tvb:reported_len() < OVERHEAD then
        mark(tree, "short", "short")
        return string.format("dropped as short: %d bytes", tvb:reported_len())
    end
    if tvb:len() < HEADER then
        return "header not captured"
    end
    add_header(tree, tvb)
    local length = add_sealed(tree, tvb)
    local text = string.format("lane %d, index 0x%08x, counter %s, %s%s", tvb(1, 1):uint(), tvb(4, 4):uint(),
        tostring(tvb(8, 8):uint64()), length == 0 and "empty" or length .. " bytes sealed",
        tvb(2, 2):uint() % 2 == VOUCHED and ", vouched" or "")
    local kind, reason = refusal(tvb)
    if kind then
        mark(tree, kind, reason)
        return string.format("dropped as %s: type %d, %s", reason, tvb(0, 1):uint(), text)
    end
    return text
end

-- ---- datagrams ----

-- The size of the datagrams in a batch that begins with a record, or that of the only one.
local function segment_size(bytes)
    local size = #bytes
    if bytes:byte(1) ~= TYPE then
        return size
    end
    for flags = 0, VOUCHED do
        local header = bytes:sub(1, 2) .. string.char(0, flags) .. bytes:sub(5, 8)
        local at = bytes:find(header, OVERHEAD + 1, true)
        -- No counter that counts reaches the upper half: together with the index, 98 bits that say it is no chance.
        if at and bytes:sub(at + 8, at + 11) == "\0\0\0\0" then
            size = math.min(size, at - 1)
        end
    end
    return size
end

local quic = Dissector.get("quic")

-- Dissects one datagram; returns the line about it, nil for QUIC, which says so itself.
local function datagram(tvb, pinfo, tree, name)
    if tvb(0, 1):uint() >= QUIC_FIRST_BYTE then
        quic:call(tvb, pinfo, tree)
        return nil
    end
    local item = tree:add(cryprq, tvb(), name)
    local text = record(tvb, item)
    item:append_text(", " .. text)
    return text
end

local function batch(tvb, pinfo, tree, size)
    local count = math.ceil(tvb:len() / size)
    local top = tree:add(cryprq, tvb(), string.format("CrypRQ, %d datagrams of %d bytes in one", count, size))
    top:add(field.datagrams, count):set_generated()
    local first
    for at = 0, tvb:len() - 1, size do
        local piece = tvb(at, math.min(size, tvb:len() - at)):tvb()
        local text = datagram(piece, pinfo, top, string.format("Datagram %d", at / size + 1))
        first = first or text
    end
    return string.format("%d datagrams, the first: %s", count, first)
end

function cryprq.dissector(tvb, pinfo, tree)
    local size = tvb:len() == tvb:reported_len() and segment_size(tvb:raw()) or tvb:len()
    local text
    if size < tvb:len() then
        text = batch(tvb, pinfo, tree, size)
    else
        text = datagram(tvb, pinfo, tree, "CrypRQ")
    end
    if text then
        pinfo.cols.protocol = "CrypRQ"
        pinfo.cols.info = text
    end
    return tvb:len()
end

-- ---- ports ----

cryprq.prefs.ports = Pref.range("UDP ports", "9999", "Where QUIC and records are told apart, such as 9999,51820", 65535)

local udp = DissectorTable.get("udp.port")
local ports = cryprq.prefs.ports
udp:add(ports, cryprq)
udp:add_for_decode_as(cryprq)

function cryprq.prefs_changed()
    if ports ~= cryprq.prefs.ports then
        udp:remove(ports, cryprq)
        ports = cryprq.prefs.ports
        udp:add(ports, cryprq)
    end
end
