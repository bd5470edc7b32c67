/* The GenApi descriptions: one table, from which the XML is written. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "camera.h"

typedef struct {
    const char *category, *name;
    char kind; /* i integer, f float, e enumeration, b boolean, c command */
    Register place;
    const char *access; /* RW or RO */
    double least, most;
    const char *unit, *entries, *more; /* more: "lock", "selector NAME", "max NODE" */
} Feature;

#define BIG 1e15

static const Feature features[] = {
    {"ImageFormatControl", "WidthMax", 'i', R_WIDTH_MAX, "RO", 1, 65535, "", "", ""},
    {"ImageFormatControl", "HeightMax", 'i', R_HEIGHT_MAX, "RO", 1, 65535, "", "", ""},
    {"ImageFormatControl", "Width", 'i', R_WIDTH, "RW", 1, 65535, "", "", "lock max WidthMax"},
    {"ImageFormatControl", "Height", 'i', R_HEIGHT, "RW", 1, 65535, "", "", "lock max HeightMax"},
    {"ImageFormatControl", "OffsetX", 'i', R_OFFSET_X, "RW", 0, 65535, "", "", ""},
    {"ImageFormatControl", "OffsetY", 'i', R_OFFSET_Y, "RW", 0, 65535, "", "", ""},
    {"ImageFormatControl", "PixelFormat", 'e', R_PIXEL_FORMAT, "RW", 0, 0, "", "", "lock"},
    {"TransportLayerControl", "PayloadSize", 'i', R_PAYLOAD_SIZE, "RO", 0, BIG, "B", "", ""},
    {"TransportLayerControl", "TLParamsLocked", 'i', R_TL_LOCKED, "RW", 0, 1, "", "", ""},
    {"AcquisitionControl", "AcquisitionMode", 'e', R_ACQUISITION_MODE, "RW", 0, 0, "",
     "Continuous", ""},
    {"AcquisitionControl", "AcquisitionStart", 'c', R_ACQUISITION_START, "RW", 0, 0, "", "", ""},
    {"AcquisitionControl", "AcquisitionStop", 'c', R_ACQUISITION_STOP, "RW", 0, 0, "", "", ""},
    {"AcquisitionControl", "AcquisitionFrameRate", 'f', R_FRAME_RATE, "RW", 0.01, 2000, "Hz", "",
     ""},
    {"AcquisitionControl", "ExposureTime", 'f', R_EXPOSURE_US, "RW", 10, 1e6, "us", "", ""},
    {"AcquisitionControl", "TriggerSelector", 'e', R_TRIGGER_SELECTOR, "RW", 0, 0, "",
     "FrameStart", ""},
    {"AcquisitionControl", "TriggerMode", 'e', R_TRIGGER_MODE, "RW", 0, 0, "", "Off,On", "lock"},
    {"AcquisitionControl", "TriggerSource", 'e', R_TRIGGER_SOURCE, "RW", 0, 0, "",
     "Software,Line1", ""},
    {"AcquisitionControl", "TriggerActivation", 'e', R_TRIGGER_ACTIVATION, "RW", 0, 0, "",
     "RisingEdge,FallingEdge", ""},
    {"AcquisitionControl", "TriggerSoftware", 'c', R_TRIGGER_SOFTWARE, "RW", 0, 0, "", "", ""},
    {"AnalogControl", "Gain", 'f', R_GAIN_DB, "RW", 0, 24, "dB", "", ""},
    {"DigitalIOControl", "LineSelector", 'e', R_LINE_SELECTOR, "RW", 0, 0, "", "Line1,Line2", ""},
    {"DigitalIOControl", "LineMode", 'e', R_LINE_MODE, "RW", 0, 0, "", "Input,Output",
     "selector LineSelector"},
    {"DigitalIOControl", "LineSource", 'e', R_LINE_SOURCE, "RW", 0, 0, "", "Off,ExposureActive",
     "selector LineSelector"},
    {"DigitalIOControl", "LineDebouncerTime", 'f', R_DEBOUNCER_US, "RW", 0, 1e6, "us", "",
     "selector LineSelector"},
    {"ChunkDataControl", "ChunkModeActive", 'b', R_CHUNK_ACTIVE, "RW", 0, 1, "", "", "lock"},
    {"ChunkDataControl", "ChunkSelector", 'e', R_CHUNK_SELECTOR, "RW", 0, 0, "",
     "Timestamp,FrameID,CounterValue,ExposureTime,LineStatusAll", ""},
    {"ChunkDataControl", "ChunkEnable", 'b', R_CHUNK_ENABLE, "RW", 0, 1, "", "",
     "lock selector ChunkSelector"},
    {"DeviceControl", "TimestampLatch", 'c', R_TIMESTAMP_LATCH, "RW", 0, 0, "", "", ""},
    {"DeviceControl", "TimestampLatchValue", 'i', R_TIMESTAMP_VALUE, "RO", 0, 9e18, "ns", "", ""},
    {"DeviceControl", "PtpEnable", 'b', R_PTP_ENABLE, "RW", 0, 1, "", "", ""},
    {"DeviceControl", "PtpDataSetLatch", 'c', R_PTP_LATCH, "RW", 0, 0, "", "", ""},
    {"DeviceControl", "PtpStatus", 'e', R_PTP_STATUS, "RO", 0, 0, "", PTP_STATES, ""},
    {"UserSetControl", "UserSetSelector", 'e', R_USER_SET_SELECTOR, "RW", 0, 0, "", "Default", ""},
    {"UserSetControl", "UserSetLoad", 'c', R_USER_SET_LOAD, "RW", 0, 0, "", "", ""},
    {"FolderFaults", "SimDropEvery", 'i', R_SIM_DROP, "RW", 0, BIG, "", "", ""},
    {"FolderFaults", "SimMissEvery", 'i', R_SIM_MISS, "RW", 0, BIG, "", "", ""},
    {"FolderFaults", "SimDoubleEvery", 'i', R_SIM_DOUBLE, "RW", 0, BIG, "", "", ""},
    {"FolderFaults", "SimIncompleteEvery", 'i', R_SIM_INCOMPLETE, "RW", 0, BIG, "", "", ""},
    {"FolderFaults", "SimLateEvery", 'i', R_SIM_LATE, "RW", 0, BIG, "", "", ""},
    {"FolderFaults", "SimLateTime", 'i', R_SIM_LATE_MS, "RW", 0, 1e6, "ms", "", ""},
    {"FolderFaults", "SimLostAfter", 'i', R_SIM_LOST_AFTER, "RW", 0, BIG, "", "", ""},
    {"FolderFaults", "SimDeviceLost", 'c', R_SIM_LOST, "RW", 0, 0, "", "", ""},
    {"FolderFaults", "SimFirstFrameID", 'i', R_SIM_FIRST_ID, "RW", 0, BIG, "", "", ""},
    {"FolderFaults", "SimFrameID16Bit", 'b', R_SIM_ID_16, "RW", 0, 1, "", "", ""},
    {"FolderFaults", "SimFrameIDsGoOn", 'b', R_SIM_IDS_GO_ON, "RW", 0, 1, "", "", ""},
    {"FolderFaults", "SimRowPadding", 'i', R_SIM_ROW_PADDING, "RW", 0, 64, "B", "", "lock"},
    {"FolderFaults", "SimTimestampJumpEvery", 'i', R_SIM_TIME_JUMP, "RW", 0, BIG, "", "", ""},
    {"FolderFaults", "SimPtpStatus", 'e', R_SIM_PTP_STATUS, "RW", 0, 0, "", PTP_STATES, ""},
    {"FolderFaults", "SimTriggersIgnored", 'i', R_SIM_IGNORED, "RO", 0, BIG, "", "", ""},
};
static const char *const chunks[MAX_CHUNKS] = {
    "ChunkTimestamp", "ChunkFrameID", "ChunkCounterValue", "ChunkExposureTime",
    "ChunkLineStatusAll",
};
static const char *const head =
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"
    "<RegisterDescription ModelName=\"%s\" VendorName=\"inspectd\" StandardNameSpace=\"None\" "
    "SchemaMajorVersion=\"1\" SchemaMinorVersion=\"1\" SchemaSubMinorVersion=\"0\" "
    "MajorVersion=\"1\" MinorVersion=\"0\" SubMinorVersion=\"0\" "
    "ProductGuid=\"6C0B1F5E-8A53-4A0B-9E2D-5B7D7A1C0E01\" "
    "VersionGuid=\"6C0B1F5E-8A53-4A0B-9E2D-5B7D7A1C0E%02X\" "
    "xmlns=\"http://www.genicam.org/GenApi/Version_1_1\" "
    "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" "
    "xsi:schemaLocation=\"http://www.genicam.org/GenApi/Version_1_1 GenApiSchema.xsd\">\n";

static char text[XML_BYTES];
static size_t used;

__attribute__((format(printf, 1, 2))) static void put(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    used += (size_t)vsnprintf(text + used, sizeof text - used, format, arguments);
    va_end(arguments);
}

/* The word behind `key` in `more`; "" where it is not there. */
static const char *word_after(const char *more, const char *key) {
    static char word[64];
    const char *found = strstr(more, key);
    word[0] = 0;
    if (found) sscanf(found + strlen(key), "%63s", word);
    return word;
}

static void put_entries(const Feature *feature) {
    if (feature->place == R_PIXEL_FORMAT) {
        for (const Format *format = formats; format->name; format++)
            put("<EnumEntry Name=\"%s\"><Value>%u</Value></EnumEntry>\n", format->name,
                format->code);
        return;
    }
    char copy[256], *rest;
    int value = 0;
    snprintf(copy, sizeof copy, "%s", feature->entries);
    for (char *name = strtok_r(copy, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
        put("<EnumEntry Name=\"%s\"><Value>%d</Value></EnumEntry>\n", name, value++);
}

static void put_register(const char *name, char kind, int address, const char *access,
                         const char *selector, const char *port) {
    const char *element = kind == 'f' ? "FloatReg" : "IntReg";
    put("<%s Name=\"%sReg\"><Address>0x%X</Address>", element, name, address);
    if (selector[0]) put("<pIndex Offset=\"8\">%sReg</pIndex>", selector);
    put("<Length>8</Length><AccessMode>%s</AccessMode><pPort>%s</pPort>"
        "<Cachable>NoCache</Cachable>",
        access, port);
    if (kind != 'f') put("<Sign>Unsigned</Sign>");
    put("<Endianess>LittleEndian</Endianess></%s>\n", element);
}

static void put_selected(const char *selector) {
    char key[80];
    snprintf(key, sizeof key, "selector %s", selector);
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        if (strstr(features[i].more, key)) put("<pSelected>%s</pSelected>", features[i].name);
}

static void put_feature(const Feature *feature) {
    static const char *const elements[128] = {['i'] = "Integer", ['f'] = "Float",
                                              ['e'] = "Enumeration", ['b'] = "Boolean",
                                              ['c'] = "Command"};
    const char *element = elements[(int)feature->kind];
    char selector[64], most[64];
    snprintf(selector, sizeof selector, "%s", word_after(feature->more, "selector "));
    snprintf(most, sizeof most, "%s", word_after(feature->more, "max "));
    put("<%s Name=\"%s\"><Visibility>Beginner</Visibility>", element, feature->name);
    if (strstr(feature->more, "lock")) put("<pIsLocked>TLParamsLocked</pIsLocked>");
    if (feature->kind == 'e') put_entries(feature);
    put("<pValue>%sReg</pValue>", feature->name);
    if (feature->kind == 'i') {
        put("<Min>%.0f</Min>", feature->least);
        if (most[0]) put("<pMax>%s</pMax>", most);
        else put("<Max>%.0f</Max>", feature->most);
    } else if (feature->kind == 'f') {
        put("<Min>%g</Min><Max>%g</Max>", feature->least, feature->most);
    } else if (feature->kind == 'c') {
        put("<CommandValue>1</CommandValue>");
    }
    if (feature->unit[0]) put("<Unit>%s</Unit>", feature->unit);
    put_selected(feature->name);
    put("</%s>\n", element);
    put_register(feature->name, feature->kind, feature->place * 8, feature->access, selector,
                 "Device");
}

static void put_categories(void) {
    const size_t count = sizeof features / sizeof *features;
    put("<Category Name=\"Root\">");
    for (size_t i = 0; i < count; i++)
        if (!i || strcmp(features[i].category, features[i - 1].category))
            put("<pFeature>%s</pFeature>", features[i].category);
    for (size_t i = 0; i < count; i++) {
        if (!i || strcmp(features[i].category, features[i - 1].category)) {
            put("</Category>\n<Category Name=\"%s\">", features[i].category);
            if (!strcmp(features[i].category, "ChunkDataControl"))
                for (int chunk = 0; chunk < MAX_CHUNKS; chunk++)
                    put("<pFeature>%s</pFeature>", chunks[chunk]);
        }
        put("<pFeature>%s</pFeature>", features[i].name);
    }
    put("</Category>\n");
}

static void put_chunks(void) {
    for (int chunk = 0; chunk < MAX_CHUNKS; chunk++) {
        char port[64];
        const char kind = chunk == 3 ? 'f' : 'i', *name = chunks[chunk];
        snprintf(port, sizeof port, "%sPort", name);
        put("<%s Name=\"%s\"><pValue>%sReg</pValue></%s>\n", kind == 'f' ? "Float" : "Integer",
            name, name, kind == 'f' ? "Float" : "Integer");
        put_register(name, kind, 0, "RO", "", port);
        put("<Port Name=\"%s\"><ChunkID>%X</ChunkID></Port>\n", port, 0x1001 + chunk);
    }
}

const char *camera_xml(void) {
    static char made[XML_BYTES];
    if (made[0]) return made;
    used = 0;
    put(head, "FolderCamera", 1);
    put_categories();
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) put_feature(&features[i]);
    put_chunks();
    put("<Port Name=\"Device\"></Port>\n</RegisterDescription>\n");
    memcpy(made, text, used + 1);
    return made;
}

const char *stream_xml(void) {
    static char made[4096];
    if (made[0]) return made;
    used = 0;
    put(head, "FolderStream", 2);
    put("<Category Name=\"Root\"><pFeature>StreamBufferHandlingMode</pFeature></Category>\n"
        "<Enumeration Name=\"StreamBufferHandlingMode\">"
        "<EnumEntry Name=\"OldestFirst\"><Value>0</Value></EnumEntry>"
        "<EnumEntry Name=\"NewestOnly\"><Value>1</Value></EnumEntry>"
        "<pValue>StreamBufferHandlingModeReg</pValue></Enumeration>\n");
    put_register("StreamBufferHandlingMode", 'i', 0, "RW", "", "Device");
    put("<Port Name=\"Device\"></Port>\n</RegisterDescription>\n");
    memcpy(made, text, used + 1);
    return made;
}

const char *module_xml(void) {
    static char made[2048];
    if (made[0]) return made;
    used = 0;
    put(head, "FolderModule", 3);
    put("<Category Name=\"Root\"></Category>\n<Port Name=\"Device\"></Port>\n"
        "</RegisterDescription>\n");
    memcpy(made, text, used + 1);
    return made;
}
