// harness_json.cpp -- csrc/json.h: documents to and from Python's own values.
#include "harness.h"

#include "json.h"

struct Document {
    JsonFile *file;
    explicit Document(JsonFile *f) : file(f) {}
    Document(const Document &) = delete;
    ~Document() { json_free(&file); }
};

static py::str to_str(const char *text)
{
    std::string out = text;
    for (size_t at; (at = out.find("\xc0\x80")) != std::string::npos;) out.replace(at, 2, 1, '\0');
    return py::str(out);
}

static py::object to_python(Json v)
{
    switch (json_kind(v)) {
        case JSON_NULL:   return py::none();
        case JSON_BOOL:   return py::bool_(json_bool(v));
        case JSON_STRING: return to_str(json_string(v));
        case JSON_NUMBER:
            if (std::string(v.at, strcspn(v.at, ",]} \n")).find_first_of(".eE") != std::string::npos)
                return py::float_(json_double(v));
            return py::int_(json_int(v));
        case JSON_ARRAY: {
            py::list list;
            for (JsonEach each = json_each(v); json_next(&each);) list.append(to_python(each.value));
            return std::move(list);
        }
        case JSON_OBJECT: {
            py::dict dict;
            for (JsonEach each = json_each(v); json_next(&each);) dict[to_str(each.key)] = to_python(each.value);
            return std::move(dict);
        }
    }
    return py::none();
}

static std::string from_str(py::handle text)
{
    std::string out = py::cast<std::string>(text);
    for (size_t at = 0; (at = out.find('\0', at)) != std::string::npos; at += 2) out.replace(at, 1, "\xc0\x80");
    return out;
}

static void put(JsonText *out, py::handle v)
{
    if (v.is_none()) json_put_null(out);
    else if (py::isinstance<py::bool_>(v)) json_put_bool(out, v.cast<bool>());
    else if (py::isinstance<py::int_>(v)) json_put_int(out, v.cast<int64_t>());
    else if (py::isinstance<py::float_>(v)) json_put_double(out, v.cast<double>());
    else if (py::isinstance<py::str>(v)) json_put_string(out, from_str(v).c_str());
    else if (py::isinstance<py::dict>(v)) {
        json_begin_object(out);
        for (auto [key, value] : py::reinterpret_borrow<py::dict>(v)) {
            json_key(out, from_str(key).c_str());
            put(out, value);
        }
        json_end(out);
    } else {
        json_begin_array(out);
        for (py::handle value : v) put(out, value);
        json_end(out);
    }
}

SECTION(json)
{
    // A value and the document it lies in; `v["key"]`, `v[3]`, and the accessors by name.
    struct Value {
        std::shared_ptr<Document> document;
        Json json;
    };
    py::class_<Value>(m, "JsonValue")
        .def("__getitem__", [](const Value &v, const char *key) { return Value{ v.document, json_get(v.json, key) }; })
        .def("__getitem__", [](const Value &v, int64_t index) {
            JsonEach each = json_each(v.json);
            while (json_next(&each)) if (each.index == index) return Value{ v.document, each.value };
            throw py::index_error();
        })
        .def("__contains__", [](const Value &v, const char *key) { return json_find(v.json, key).at != nullptr; })
        .def("__len__", [](const Value &v) { return json_count(v.json); })
        .def("int", [](const Value &v) { return json_int(v.json); })
        .def("double", [](const Value &v) { return json_double(v.json); })
        .def("bool", [](const Value &v) { return json_bool(v.json); })
        .def("string", [](const Value &v) { return to_str(json_string(v.json)); })
        .def("fail", [](const Value &v, const char *wanted) { json_fail(v.json, "%s", wanted); })
        .def("python", [](const Value &v) { return to_python(v.json); });

    m.def("json_parse", [](const py::bytes &text, const std::string &name) {
        const std::string_view bytes = text;
        const auto document = std::make_shared<Document>(json_parse(name.c_str(), bytes.data(), bytes.size()));
        return Value{ document, json_root(document->file) };
    }, py::arg("text"), py::arg("name") = "test.json");
    m.def("json_read", [](const std::string &path) {
        const auto document = std::make_shared<Document>(json_read(path.c_str()));
        return Value{ document, json_root(document->file) };
    });
    m.def("json_dump", [](py::handle value, bool pretty) {
        JsonText out AUTO(json_text_free) = {};
        out.pretty = pretty;
        put(&out, value);
        return py::bytes(out.text, out.size);
    }, py::arg("value"), py::arg("pretty") = false);
    m.def("json_put_bytes", [](const std::string &text) {
        JsonText out AUTO(json_text_free) = {};
        json_put_string(&out, text.c_str());
        return py::bytes(out.text, out.size);
    });
}
